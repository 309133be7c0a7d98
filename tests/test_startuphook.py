"""startup-hook.sh, as a container sources it, with real pip and a few packages of our own."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROJECT = """
[project]
dependencies = ["torch>=2.6", "determined>=0.37", "small>=1"]
[project.optional-dependencies]
notebook = ["board"]
greedy = ["greedy"]
"""
PINS = "board==1.0\ndetermined==0.38.1\nsmall==1.0\ntorch==2.13.0\n"
TOKEN = "hf_nobodyMayReadThis"


def pack(folder: Path, name: str, version: str, *needs: str) -> Path:
    """Make a package that has nothing in it but its name."""
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    about = {
        "METADATA": "\n".join([*metadata, *(f"Requires-Dist: {need}" for need in needs), ""]),
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for part, text in about.items():
            file.writestr(f"{name}-{version}.dist-info/{part}", text)
    return wheel


class Image:
    """What a container is started from: a Python, a torch, and the agent's determined."""

    def __init__(self, folder: Path):
        self.index = folder / "index"
        self.index.mkdir()
        for name, version, *needs in [
            *[("small", "1.0"), ("small", "2.0"), ("board", "1.0"), ("torch", "2.13.0")],
            *[("determined", "0.38.1"), ("greedy", "1.0", "torch>=2.9")],
        ]:
            pack(self.index, name, version, *needs)
        self.context = folder / "context"
        self.context.mkdir()
        (self.context / "pyproject.toml").write_text(PROJECT)
        (self.context / "constraints.txt").write_text(PINS)
        (self.context / "startup-hook.sh").write_text((ROOT / "startup-hook.sh").read_text())
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        self._python = folder / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self._python], check=True)
        (self.site,) = self._python.glob("lib/*/site-packages")
        # Found and not imported: setuptools minds that, where distutils was imported before.
        (self.site / "pip").symlink_to(Path(str(distribution("pip").locate_file("pip"))))

    def has(self, name: str, version: str) -> None:
        """Put a package into the image."""
        with zipfile.ZipFile(pack(self.context, name, version)) as wheel:
            wheel.extractall(self.site)

    def start(self, code: int = 0, **variables: str) -> str:
        """Source the hook as the container's entrypoint does, and return what the log has."""
        done = subprocess.run(
            ["bash", "-exc", ". ./startup-hook.sh; echo the trial starts"],
            cwd=self.context,
            env={
                "PATH": f"{self._python / 'bin'}:{os.environ['PATH']}",
                "TMPDIR": str(self.scratch),
                "HF_TOKEN": TOKEN,
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(self.index),
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, done.stdout
        assert ("\nthe trial starts\n" in done.stdout) == (code == 0)
        assert TOKEN not in done.stdout
        return done.stdout

    @property
    def packages(self) -> dict[str, str]:
        """The versions of what is installed."""
        return {one.name: one.version for one in distributions(path=[str(self.site)])}


@pytest.fixture
def image(tmp_path) -> Image:
    image = Image(tmp_path)
    image.has("torch", "2.8.0+cu128")
    image.has("determined", "0.38.0")
    return image


def test_what_is_missing_is_installed_as_pinned_beside_the_images_own(image):
    image.start()
    own = {"torch": "2.8.0+cu128", "determined": "0.38.0"}
    assert image.packages == {**own, "small": "1.0"}
    assert not list(image.scratch.iterdir())
    image.start(DETSD_EXTRA="notebook")
    assert image.packages == {**own, "small": "1.0", "board": "1.0"}


def test_what_is_there_is_not_asked_for(image, tmp_path):
    image.start()
    image.start(PIP_FIND_LINKS=str(tmp_path / "nowhere"), DETSD_EXTRA="")


def test_what_needs_another_torch_ends_the_container_with_pips_words(image):
    said = image.start(code=1, DETSD_EXTRA="greedy")
    assert "greedy 1.0 depends on torch>=2.9" in said
    assert image.packages["torch"] == "2.8.0+cu128"


def test_an_image_is_built_before_an_agent_has_put_determined_there(tmp_path):
    image = Image(tmp_path)
    image.has("torch", "2.8.0+cu128")
    image.start()
    assert image.packages["determined"] == "0.38.1"


def test_an_image_with_an_older_python_is_named_as_the_reason(image):
    older = "import sys; sys.version_info = (3, 10, 12, 'final', 0)"
    (image.site / "sitecustomize.py").write_text(older)
    said = image.start(code=1)
    assert "error: this image has Python 3.10" in said and "environment.image" in said
    assert "Traceback" not in said
