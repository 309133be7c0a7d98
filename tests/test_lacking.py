"""What an interpreter lacks is put beside it, and its own torch is never touched."""

import os
import shutil
import subprocess
from importlib.metadata import distributions

import pytest

from tests.conftest import ROOT
from tests.test_startuphook import Image, pack

PINS = "board==1.0\nnvidia-one==1.0\nsmall==1.0\ntorch==2.13.0\npytest==9.0\n"
PROJECT = '[project]\ndependencies = ["torch>=2.6", "small>=1", "board"]\n'


class Machine(Image):
    """A Python with torch, and wheels beside the checkout."""

    def __init__(self, folder):
        super().__init__(folder)
        (self.context / "pyproject.toml").write_text(PROJECT)
        (self.context / "constraints.txt").write_text(PINS)
        shutil.copytree(ROOT / "benchmarks", self.context / "benchmarks")
        self.wheels = self.context / "wheels"
        self.wheels.mkdir()
        for name in ("board", "small"):
            pack(self.wheels, name, "1.0")
        pack(self.wheels, "pytest", "9.0")

    def install(self, code=0):
        done = subprocess.run(
            [self._python / "bin/python", "-m", "benchmarks.lacking", "beside"],
            cwd=self.context,
            env={"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    @property
    def beside(self):
        return {one.name: one.version for one in distributions(path=[self.context / "beside"])}


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    machine.has("torch", "2.8.0+cu128")
    machine.has("small", "1.5")
    return machine


def test_only_what_is_lacking_is_put_beside_it(machine):
    before = machine.packages
    machine.install()
    assert machine.beside == {"board": "1.0", "pytest": "9.0"}
    assert machine.packages == before


def test_where_all_is_there_nothing_is_put_anywhere(machine):
    for name, version in (("board", "3.0"), ("pytest", "8.0")):
        machine.has(name, version)
    shutil.rmtree(machine.wheels)
    assert "nothing, all is installed" in machine.install()
    assert not machine.beside


def test_what_is_too_old_is_shadowed_by_the_tested_version(machine):
    (machine.context / "pyproject.toml").write_text(PROJECT.replace("small>=1", "small<1.5"))
    machine.install()
    assert machine.beside == {"board": "1.0", "pytest": "9.0", "small": "1.0"}


@pytest.mark.parametrize("needed", ["torch>=2.9", "nvidia-one"])
def test_what_needs_another_torch_is_refused(machine, needed):
    pack(machine.wheels, "torch", "2.13.0")
    pack(machine.wheels, "nvidia_one", "1.0")
    (machine.wheels / "board-1.0-py3-none-any.whl").unlink()
    pack(machine.wheels, "board", "1.0", needed)
    said = machine.install(code=1)
    assert said.startswith("benchmarks.lacking: ") and "Traceback" not in said
    assert not machine.beside and machine.packages["torch"] == "2.8.0+cu128"


def test_without_torch_there_is_nothing_to_do(tmp_path):
    assert "torch is not installed" in Machine(tmp_path).install(code=1)


def test_a_wheel_that_is_missing_is_named(machine):
    (machine.wheels / "board-1.0-py3-none-any.whl").unlink()
    assert "board" in machine.install(code=1)
