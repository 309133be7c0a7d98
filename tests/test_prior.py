"""What the model is not to forget: pictures made once, found again, and taken along."""

import copy
import json
import logging
import shutil

import pytest
import torch

from detsd import classimages
from detsd.config import ConfigError, FinetuneConfig, read
from detsd.pretrained import load_model
from detsd.prior import KEPT, class_samples, keep_latents
from detsd.trial import TrialError
from tests.trials import CLASS, LORA, exports, last, run, same

FEW = {**CLASS, "num_class_images": 1, "num_inference_steps": 1}


def asked(folder, hparams, own=None):
    """Return what a trial is told of the class before it learns."""
    found = []

    def ask(trial):
        config = read(FinetuneConfig, trial.hparams)
        model = load_model(config.model, trial.device)
        size = config.concepts.img_size or model.size
        found.append(class_samples(config, model, size, trial, own))

    run(folder, hparams, work=ask)
    return found[0]


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


def test_the_class_that_a_checkpoint_brings_is_kept_in_another_precision(tmp_path, make):
    folder = run(tmp_path / "run", make(LORA, CLASS), stop_at=1)
    shutil.rmtree(tmp_path / "cache")
    run(folder, make(LORA, CLASS, precision="bf16"))
    assert not (tmp_path / "cache").exists()


def test_own_pictures_of_the_class_are_taken(tmp_path, make, pictures):
    classes = shutil.copytree(pictures, tmp_path / "classes")
    own = run(tmp_path / "own", make(LORA, {**CLASS, "class_dir": str(classes)}))
    assert not (tmp_path / "cache").exists()
    assert not same(own, run(tmp_path / "made", make(LORA, CLASS)))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="class_dir: .* holds no picture"):
        run(tmp_path / "none", make(LORA, {**CLASS, "class_dir": str(empty)}))


OTHERS = {
    "class_prompt": "a painting",
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
    "generator_seed": 5,
    "scheduler_name": "euler-ancestral",
}


@pytest.mark.parametrize("key", [*OTHERS, "img_size", "model"])
def test_pictures_that_would_be_others_are_made_anew(tmp_path, make, key):
    hparams = make(LORA, FEW)
    asked(tmp_path / "one", hparams)
    if key in OTHERS:
        hparams["prior"][key] = OTHERS[key]
    elif key == "model":
        hparams["model"] = make(LORA, family="sd2")["model"]
    else:
        hparams["concepts"]["img_size"] = 32
    asked(tmp_path / "other", hparams)
    pictures = sorted((tmp_path / "cache").glob("*/*.png"))
    assert len(pictures) == 2 and pictures[0].read_bytes() != pictures[1].read_bytes()
    told = [json.loads((path.parent / "about.json").read_text()) for path in pictures]
    assert told[0] != told[1]


def test_pictures_are_found_again_whatever_else_is_asked(tmp_path, make):
    first = asked(tmp_path / "one", make(LORA, FEW))
    other = make({"kind": "full"}, {**FEW, "weight": 0.5}, learning_rate=1.0, train_seed=3)
    other["concepts"] |= {"crop_scale": [0.5, 0.9], "flip_p": 0.5}
    again = asked(tmp_path / "other", other)
    assert len(list((tmp_path / "cache").glob("*/*.png"))) == 1
    assert (again.captions, again.weight) == (first.captions, 0.5)
    assert again.follows == first.follows
    for one, two in zip(first.latents, again.latents, strict=True):
        assert torch.equal(one, two)
        assert one.shape[:2] == (1, 1)  # no crop of it, and no mirror image


def test_each_picture_has_its_own_seed_and_more_are_added(tmp_path, make):
    asked(tmp_path / "one", make(LORA, {**FEW, "num_class_images": 2}))
    (folder,) = (tmp_path / "cache").iterdir()
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    asked(tmp_path / "more", make(LORA, {**FEW, "num_class_images": 3}))
    assert len(list(folder.glob("*.png"))) == 3
    assert {path: path.stat().st_mtime_ns for path in made} == made
    seed = json.loads((folder / "about.json").read_text())["first_seed"]
    asked(tmp_path / "next", make(LORA, {**FEW, "generator_seed": seed + 1}))
    assert asked(tmp_path / "fewer", make(LORA, FEW)).latents.mean.shape[0] == 1
    (first_of_next,) = (set((tmp_path / "cache").iterdir()) - {folder}).pop().glob("*.png")
    assert first_of_next.read_bytes() == (folder / "00001.png").read_bytes()


def test_several_prompts_share_the_pictures(tmp_path, make, monkeypatch):
    monkeypatch.setattr(classimages, "BLOCK", 1)
    prompts = ["a photo of a logo", "a painting"]
    shared = {**FEW, "class_prompt": prompts, "num_class_images": 3}
    samples = asked(tmp_path / "both", make(LORA, shared))
    assert samples.captions == ("a photo of a logo", "a painting", "a photo of a logo")
    (folder,) = (tmp_path / "cache").iterdir()
    seed = json.loads((folder / "about.json").read_text())["first_seed"]
    alone = {**FEW, "class_prompt": "a painting", "generator_seed": seed + 1}
    asked(tmp_path / "alone", make(LORA, alone))
    (drawn,) = (set((tmp_path / "cache").iterdir()) - {folder}).pop().glob("*.png")
    assert drawn.read_bytes() == (folder / "00001.png").read_bytes()


def test_the_empty_prompt_has_its_share_too(tmp_path, make):
    prompts = ["", "a photo of a logo"]
    samples = asked(tmp_path, make(LORA, {**FEW, "class_prompt": prompts, "num_class_images": 2}))
    assert samples.captions == ("", "a photo of a logo")
    assert not torch.equal(*samples.latents.mean)


def test_without_a_use_for_pictures_none_are_made(tmp_path, make):
    assert asked(tmp_path / "none", make(LORA)) is None
    assert asked(tmp_path / "weightless", make(LORA, {**FEW, "weight": 0})) is None
    samples = asked(tmp_path / "distill", make(LORA, {**FEW, "kind": "distill", "weight": 2}))
    assert samples == (("a photo of a logo",), 2, None, "")
    assert not (tmp_path / "cache").exists()
    keep_latents(tmp_path / "nowhere", samples)
    keep_latents(tmp_path / "nowhere", None)


def test_what_a_checkpoint_keeps_is_taken_if_it_is_of_these_pictures(tmp_path, make, caplog):
    hparams = make(LORA, FEW)
    first = asked(tmp_path / "one", hparams)
    (tmp_path / KEPT).parent.mkdir()
    keep_latents(tmp_path, first)
    shutil.rmtree(tmp_path / "cache")
    again = asked(tmp_path / "two", hparams, own=tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(first.latents, again.latents, strict=True))
    assert not (tmp_path / "cache").exists() and "class are others" not in caplog.text
    hparams["concepts"]["interpolation"] = "nearest"
    asked(tmp_path / "three", hparams, own=tmp_path)
    assert (tmp_path / "cache").exists() and "class are others since" in caplog.text


def test_a_place_or_a_size_that_pictures_cannot_have_is_refused(tmp_path, make):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(
        ConfigError, match="prior.cache_dir: .*file/.* cannot hold pictures .*Not a"
    ):
        asked(tmp_path / "one", make(LORA, {**FEW, "cache_dir": str(tmp_path / "file")}))
    hparams = make(LORA, FEW)
    hparams["concepts"]["img_size"] = 18
    with pytest.raises(ConfigError, match="concepts.img_size: a multiple of 4 .* found 18"):
        asked(tmp_path / "two", hparams)
