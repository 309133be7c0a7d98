"""Captions beside the pictures of a folder: where there are none, and nowhere else."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from detsd import caption, console, storage
from detsd.__main__ import main
from detsd.caption import caption_folder
from detsd.captioner import Captioner, load_captioner
from detsd.config import ConceptsConfig, read
from detsd.data import read_examples
from detsd.prompts import read_captions
from tests.conftest import ROOT
from tests.tiny_captioner import build

COUNT = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("captioner"), "blip")


@pytest.fixture(scope="module")
def captioner(model: Path) -> Captioner:
    return load_captioner(str(model), "cpu")


@pytest.fixture
def write(captioner: Captioner, pictures: Path) -> Callable[..., tuple[int, ...]]:
    """Caption the five pictures; return how many were written, there, unreadable and left."""
    return lambda overwrite=False: caption_folder(pictures, lambda: captioner, overwrite=overwrite)


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with random weights seldom comes to an end."""
    monkeypatch.setattr("detsd.captioner.LONGEST", 12)


def refuse() -> Captioner:
    raise AssertionError("the model is loaded for nothing")


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in sorted(folder.glob("*.txt"))}


def test_what_is_written_is_what_training_reads(pictures, write):
    assert write() == (COUNT, 0, 0, 0)
    said = texts(pictures)
    assert list(said) == [f"on_a_wall_{number}.txt" for number in range(COUNT)]
    assert len(set(said.values())) > 1 and all(len(text) > 1 for text in said.values())
    keys = {"concept_strs": "det-logo", "initializer_strs": "brain logo"}
    keys |= {"learnable_properties": "object", "img_dirs": str(pictures)}
    for example in read_examples(read(ConceptsConfig, keys)):
        text = said[example.image.with_suffix(".txt").name].strip()
        assert f"a photo of a det-logo, {text}" in example.captions


def test_a_second_time_there_is_nothing_to_do(pictures, write):
    write()
    before = {path: path.stat().st_mtime_ns for path in pictures.iterdir()}
    assert caption_folder(pictures, refuse, overwrite=False) == (0, COUNT, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in pictures.iterdir()} == before


def test_a_caption_that_is_there_stays_wherever_it_lies(pictures, write):
    (pictures / "on_a_wall_0.txt").write_text("one")
    (pictures / "on_a_wall_1.png.txt").write_text("another")
    line = json.dumps({"file_name": "on_a_wall_2.png", "text": "a third"})
    (pictures / "captions.jsonl").write_text(line)
    (pictures / "on_a_wall_3.txt").write_text("\n")  # which is none
    assert write() == (2, 3, 0, 0)
    said = texts(pictures)
    assert said.pop("on_a_wall_0.txt") == "one" and said.pop("on_a_wall_1.png.txt") == "another"
    assert list(said) == ["on_a_wall_3.txt", "on_a_wall_4.txt"] and all(
        map(str.strip, said.values())
    )


def test_all_captions_are_written_anew_when_that_is_asked_for(pictures, write):
    write()
    wanted = texts(pictures)
    (pictures / "on_a_wall_0.txt").write_text("one")
    (pictures / "on_a_wall_1.txt").rename(pictures / "on_a_wall_1.png.txt").write_text("another")
    (pictures / "on_a_wall_2.txt").unlink()
    listed = pictures / "captions.jsonl"
    listed.write_text(line := json.dumps({"file_name": "on_a_wall_2.png", "text": "a third"}))
    wanted["on_a_wall_1.png.txt"] = wanted.pop("on_a_wall_1.txt")  # in the place that is read
    assert write(overwrite=True) == (COUNT, 0, 0, 0)
    assert texts(pictures) == wanted and listed.read_text() == line


def test_after_a_kill_the_rest_is_written(pictures, captioner, write, monkeypatch):
    write()
    wanted = texts(pictures)
    for path in pictures.glob("*.txt"):
        path.unlink()
    monkeypatch.setattr(caption, "BATCH", 2)
    batches = []

    class Killed(Captioner):
        def say(self, pictures):
            batches.append(len(pictures))
            if len(batches) == 2:
                raise KeyboardInterrupt
            return captioner.say(pictures)

    with pytest.raises(KeyboardInterrupt):
        caption_folder(pictures, lambda: Killed.__new__(Killed), overwrite=False)
    assert list(texts(pictures)) == ["on_a_wall_0.txt", "on_a_wall_1.txt"]
    assert write() == (3, 2, 0, 0)
    assert texts(pictures) == wanted


def test_a_kill_while_a_caption_is_written_leaves_no_half(pictures, write, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "flush", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        write()
    assert not texts(pictures)
    assert write() == (COUNT, 0, 0, 0)
    assert not list(pictures.glob(".*"))


def test_a_picture_that_cannot_be_read_is_skipped(pictures, write, caplog):
    (pictures / "empty.png").touch()
    (pictures / "cut.png").write_bytes((pictures / "on_a_wall_0.png").read_bytes()[:500])
    assert write() == (COUNT, 0, 2, 0)
    assert len(texts(pictures)) == COUNT
    [cut, empty] = [record.getMessage() for record in caplog.records]
    assert f"{pictures / 'cut.png'}: " in cut and "empty.png: is empty: skipped" in empty


def test_pictures_that_differ_only_in_format_have_a_caption_each(pictures, captioner, write):
    twin = pictures / "on_a_wall_0.bmp"
    Image.open(pictures / "on_a_wall_1.png").save(twin)
    assert write() == (COUNT + 1, 0, 0, 0)
    found = read_captions(pictures, [twin, pictures / "on_a_wall_0.png"])
    assert found[twin] == read_captions(pictures, [pictures / "on_a_wall_1.png"]).popitem()[1]
    assert len(set(found.values())) == 2


def test_a_caption_of_two_pictures_is_not_replaced_by_that_of_one(pictures, write, caplog):
    shutil.copy(pictures / "on_a_wall_0.png", pictures / "on_a_wall_0.jpg")
    (pictures / "on_a_wall_0.txt").write_text("both")
    assert write(overwrite=True) == (COUNT - 1, 0, 0, 2)
    assert (pictures / "on_a_wall_0.txt").read_text() == "both"
    assert "would caption another picture, too" in caplog.text


def test_a_model_without_words_leaves_no_empty_caption(pictures, caplog):
    class Silent(Captioner):
        def say(self, pictures):
            return [""] * len(pictures)

    tally = caption_folder(pictures, lambda: Silent.__new__(Silent), overwrite=False)
    assert tally == (0, 0, 0, COUNT) and str(tally).endswith(", left as they are: 5")
    assert not texts(pictures) and "the model says nothing of it" in caplog.text


@pytest.fixture
def refused(monkeypatch, capsys):
    """Return the one line that the command ends with."""
    monkeypatch.setattr(console, "speak", lambda: None)  # it would take pytest's handlers away

    def error_of(*arguments: object) -> str:
        assert main(["caption", *map(str, arguments)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    return error_of


def test_what_cannot_be_captioned_is_said_in_a_line(refused, pictures, tmp_path, scorer_folder):
    nowhere, empty = tmp_path / "nowhere", tmp_path / "empty"
    empty.mkdir()
    file = pictures / "on_a_wall_0.png"
    for path in (nowhere, file):
        assert (
            refused(path, "--model", "x") == f"{path}: no such folder; one with pictures is wanted"
        )
    assert refused(empty, "--model", "x").startswith(f"{empty} holds no picture; wanted are .jpg")
    assert refused(pictures, "--model", nowhere).startswith(f"--model: {nowhere} could not be l")
    assert refused(pictures, "--model", scorer_folder).startswith(f"--model: {scorer_folder} is CL")
    assert not texts(pictures)


def test_a_folder_that_cannot_be_written_is_said_before_the_model_is_loaded(
    refused, pictures, monkeypatch
):
    # Root, as which tests may run, writes whatever the folder's mode says.
    def read_only(dir):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(caption.tempfile, "TemporaryFile", read_only)
    wanted = f"{pictures} cannot be written: Read-only file system"
    assert refused(pictures, "--model", "no/model") == wanted


def test_the_command_says_what_it_did_and_nothing_else(pictures, model):
    (pictures / "broken.png").touch()
    (pictures / "on_a_wall_4.txt").write_text("one")
    arguments = ["caption", pictures, "--model", model, "--begin", "A photo of", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "detsd", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "captions written: 4, there already: 1; pictures that could not be read: 1\n",
        f"{pictures / 'broken.png'}: is empty: skipped\n",
    )
    said = texts(pictures)
    assert said.pop("on_a_wall_4.txt") == "one"
    assert len(said) == 4 and all(text.startswith("A photo of") for text in said.values())
