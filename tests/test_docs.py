"""What the documentation tells people to type and to write: the real parsers take it."""

import re
import shlex
from io import IOBase
from pathlib import Path

import pytest
import yaml
from determined.cli import cli

from detsd.__main__ import parser as our_parser
from detsd.config import Experiment, FinetuneConfig, read
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```(sh|yaml)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[tuple[Path, str]]:
    return [
        (path, text)
        for path in PAGES
        for found, text in BLOCK.findall(path.read_text())
        if found == kind
    ]


def commands(program: str) -> list[str]:
    """Return the lines that start a program, with those that they go on in."""
    text = "\n".join(text for _, text in blocks("sh")).replace("\\\n", " ")
    lines = {line.partition("  #")[0].strip() for line in text.splitlines()}
    return sorted(line for line in lines if line.startswith(f"{program} "))


@pytest.mark.parametrize("command", commands("det"))
def test_det_takes_what_is_to_be_typed(command):
    parser = cli.make_parser()
    cli.cli.add_args(parser, cli.all_args_description)
    given = vars(parser.parse_args(shlex.split(command)[1:]))
    for value in given.values():
        if isinstance(value, IOBase):
            value.close()
    assert given["func"]


@pytest.mark.parametrize("command", commands("python -m detsd"))
def test_detsd_takes_what_is_to_be_typed(command):
    given = our_parser().parse_args(shlex.split(command)[3:])
    if given.command == "run":
        assert (ROOT / given.file).is_file()


@pytest.mark.parametrize("text", [text for _, text in blocks("yaml")])
def test_an_experiment_takes_what_is_to_be_written(text, monkeypatch):
    monkeypatch.setattr("detsd.config.hub.folder_or_hub_id", lambda name: name)
    part = yaml.safe_load(text)
    hparams = part.pop("hyperparameters", {})
    read(Experiment, {"hyperparameters": {}, **part})
    needed = yaml.safe_load((ROOT / "finetune_const.yaml").read_text())["hyperparameters"]
    read(FinetuneConfig, {**needed, **hparams})


def test_links_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), (path.name, target)
