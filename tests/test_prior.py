"""What the model is not to forget: pictures made once, found again, and taken along."""

import copy
import logging
import shutil

import pytest

from detsd.config import ConfigError
from detsd.prior import KEPT
from detsd.trial import TrialError
from tests.trials import CLASS, LORA, exports, last, run, same


@pytest.mark.parametrize("method", [LORA, {"kind": "full"}], ids=["lora", "full"])
def test_a_prior_without_weight_is_none_bit_for_bit(tmp_path, make, method):
    without = run(tmp_path / "without", make(method))
    weightless = run(tmp_path / "weightless", make(method, {**CLASS, "weight": 0}))
    assert same(weightless, without)
    assert exports(weightless) == exports(without)
    assert not (tmp_path / "cache").exists()
    assert not same(run(tmp_path / "with", make(method, CLASS)), without)


def test_pictures_of_the_class_are_made_once(tmp_path, make, caplog):
    caplog.set_level(logging.INFO)
    hparams = make(LORA, CLASS)
    run(tmp_path / "first", hparams)
    (folder,) = (tmp_path / "cache").iterdir()
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert sorted(made) == ["00000.png", "00001.png", "00002.png"]
    assert caplog.text.count("making 3 pictures of 'a photo of a logo'") == 1
    run(tmp_path / "second", hparams)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")} == made
    assert same(tmp_path / "second", tmp_path / "first")
    content = (folder / "00001.png").read_bytes()
    for left in (content[:100], b""):  # as a crash of the machine may leave it
        (folder / "00001.png").write_bytes(left)
        run(tmp_path / f"{len(left)} bytes", hparams)
        assert (folder / "00001.png").read_bytes() == content
    assert {path.suffix for path in folder.iterdir()} == {".png", ".json"}
    other = copy.deepcopy(hparams)
    other["prior"]["guidance_scale"] = 2.0
    run(tmp_path / "other", other)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_stop_while_pictures_of_the_class_are_made_loses_none(tmp_path, make, monkeypatch):
    from detsd import classimages

    monkeypatch.setattr(classimages, "BLOCK", 1)
    hparams = make(LORA, CLASS)
    straight = run(
        tmp_path / "straight",
        {**hparams, "prior": {**hparams["prior"], "cache_dir": str(tmp_path / "other")}},
    )
    from detsd.foldertrial import FolderTrial

    asked = iter([False, True])
    monkeypatch.setattr(FolderTrial, "should_stop", lambda self: next(asked))
    stopped = run(tmp_path / "stopped", hparams)
    assert not (stopped / "checkpoints").exists() or not list((stopped / "checkpoints").iterdir())
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(list(folder.glob("*.png"))) == 1
    monkeypatch.undo()
    monkeypatch.setattr(classimages, "BLOCK", 1)
    assert same(run(stopped, hparams), straight)


def test_a_checkpoint_brings_the_class_along_to_another_machine(tmp_path, make):
    hparams = make(LORA, CLASS)
    straight = run(tmp_path / "straight", hparams)
    stopped = run(tmp_path / "stopped", hparams, stop_at=1)
    elsewhere = {**hparams, "prior": {**hparams["prior"], "cache_dir": str(tmp_path / "elsewhere")}}
    assert same(run(stopped, elsewhere), straight)
    assert not (tmp_path / "elsewhere").exists()


def test_damaged_latents_of_the_class_are_an_error_in_a_line(tmp_path, make):
    hparams = make(LORA, CLASS)
    stopped = run(tmp_path / "stopped", hparams, stop_at=1)
    kept = last(stopped) / KEPT
    content = kept.read_bytes()
    for damaged in (content[:-9], content[:20], b""):
        kept.write_bytes(damaged)
        with pytest.raises(TrialError, match=f"{kept.name} cannot be read .* go on from the one"):
            run(stopped, hparams)


def test_own_pictures_of_the_class_are_taken(tmp_path, make, pictures):
    classes = shutil.copytree(pictures, tmp_path / "classes")
    own = run(tmp_path / "own", make(LORA, {**CLASS, "class_dir": str(classes)}))
    assert not (tmp_path / "cache").exists()
    assert not same(own, run(tmp_path / "made", make(LORA, CLASS)))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="class_dir: .* holds no picture"):
        run(tmp_path / "none", make(LORA, {**CLASS, "class_dir": str(empty)}))
