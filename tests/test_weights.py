"""All weights: a whole model in the end, and their running mean where one is kept."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from detsd.adapters import write_adapter
from detsd.compat import DetSDTextualInversionPipeline
from detsd.concepts import write_concepts
from detsd.config import FullConfig, ModelConfig, read
from detsd.generate import load_pipeline
from detsd.pretrained import load_model
from detsd.request import Settings
from detsd.sampler import build_scheduler
from detsd.weights import LearntWeights
from tests.made_up import adapter
from tests.test_model import made_up
from tests.trials import FULL, WORDED, last, learnt, run


def attached(model, *, keeps_first=False, half=False, **keys):
    """Return all weights of the model as they learn, and those that do by name."""
    config = read(FullConfig, {"kind": "full", **keys})
    part = LearntWeights(config, model, half=half, keeps_first=keeps_first)
    return part, dict(pair for group in part.parameter_groups() for pair in group["params"])


@torch.no_grad()
def come_some_way(learnt, factor=1.5):
    for value in learnt.values():
        value *= factor


def copies(learnt):
    return {name: value.detach().clone() for name, value in learnt.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_export_of_all_weights_is_a_whole_model(tmp_path, make):
    folder = run(tmp_path, make(FULL))
    export = last(folder) / "export"
    loaded = load_model(ModelConfig(pretrained_model_name_or_path=str(export)), torch.device("cpu"))
    state = learnt(folder)
    for name, value in loaded.unet.state_dict().items():
        assert torch.equal(value, state[f"unet.{name}@mean"])  # what was sampled, too
    assert not torch.equal(state["unet.conv_in.weight"], state["unet.conv_in.weight@mean"])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_words_that_are_learnt_with_the_weights_come_along(tmp_path, make, family):
    folder = run(tmp_path, make({**WORDED, "ema_decay": None}, family=family))
    assert not [name for name in learnt(folder) if "rows" in name]  # the words' own, and once
    checkpoint = last(folder)
    pipeline = load_pipeline(checkpoint)
    assert pipeline.concepts == {"fbernuy": 2}
    asked = {"seed": 5, "steps": 3, "scheduler": "ddim"}
    [with_word] = pipeline("a photo of a fbernuy logo", **asked)
    [by_name] = load_pipeline(checkpoint, concepts=checkpoint)("a photo of a fbernuy logo", **asked)
    assert by_name.tobytes() == with_word.tobytes()

    plain = DiffusionPipeline.from_pretrained(checkpoint / "export", safety_checker=None)
    assert "fbernuy" not in plain.tokenizer.get_vocab()
    [without_word] = pipeline("a photo of a logo", **asked)
    settings = Settings("ddim", {}, 3)
    plain.scheduler = build_scheduler(pipeline.model, settings)
    plain.set_progress_bar_config(disable=True)
    vectors = load_file(checkpoint / "export" / "fbernuy.safetensors")
    for key, tensor in vectors.items():
        suffix = "_2" if key == "clip_g" else ""
        plain.load_textual_inversion(
            {"fbernuy": tensor},
            tokenizer=getattr(plain, f"tokenizer{suffix}"),
            text_encoder=getattr(plain, f"text_encoder{suffix}"),
        )
    for ours, prompt in (
        (with_word, "a photo of a fbernuy logo"),
        (without_word, "a photo of a logo"),
    ):
        generator = torch.Generator().manual_seed(5)
        theirs = plain(prompt, num_inference_steps=3, guidance_scale=7.5, generator=generator)
        apart = np.asarray(ours).astype(int) - np.asarray(theirs.images[0]).astype(int)
        assert abs(apart).max() <= 1


def test_words_beside_a_model_are_found_however_it_is_named(models, load, tmp_path, monkeypatch):
    model = load("sd1")
    folder = shutil.copytree(models["sd1"], tmp_path / "home" / "whole")
    write_adapter(folder / "style.safetensors", adapter(model))  # as on the hub beside a model
    assert load_pipeline(folder).concepts == {}
    write_concepts(folder, [made_up(model, "det-logo", 2)])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_pipeline("~/whole").concepts == {"det-logo": 2}
    names = {"pretrained_model_name_or_path": str(folder), "device": "cpu"}
    assert DetSDTextualInversionPipeline(**names).all_added_concepts == ["det-logo"]


def test_the_mean_follows_fast_while_it_is_young_and_then_as_it_is_told(load):
    part, learnt = attached(load("sd1"), ema_decay=0.5)
    name = "unet.conv_in.weight"
    first = learnt[name].detach().clone()
    come_some_way(learnt, 3)
    part.after_step(0)
    assert torch.allclose(part.state_dict()[f"{name}@mean"], first * 2.8)  # 1/10 and 9/10 of 3
    part.after_step(1000)
    assert torch.allclose(part.state_dict()[f"{name}@mean"], first * 2.9)


def test_the_mean_is_what_is_shown_and_exported_and_the_weights_are_back_after(load, tmp_path):
    part, learnt = attached(load("sd1"), ema_decay=0.9)
    come_some_way(learnt)
    part.after_step(0)
    come_some_way(learnt)
    now, state = copies(learnt), part.state_dict()
    mean = {name: state[f"{name}@mean"] for name in learnt}
    with pytest.raises(ZeroDivisionError), part.shown():
        assert equal(learnt, mean) and not equal(learnt, now)
        1 / 0  # noqa: B018
    assert equal(learnt, now)
    part.export(tmp_path, {})
    written = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert equal({f"unet.{name}": value for name, value in written.items()}, mean)
    assert equal(learnt, now) and equal(part.state_dict(), state)


def test_the_distance_is_that_of_what_is_shown(load):
    part, learnt = attached(load("sd1"))
    averaged, with_mean = attached(load("sd1"), ema_decay=0.5)
    assert part.moved().share == averaged.moved().share == 0
    for one in (learnt, with_mean):
        come_some_way(one, 1.1)
    assert part.moved().share == pytest.approx(0.1, rel=1e-4)
    assert averaged.moved().share == 0
    averaged.after_step(1000)
    assert averaged.moved().share == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_text_encoders_learn_only_at_a_rate_of_their_own(load, family):
    model = load(family)
    part, learnt = attached(model)
    assert {name.partition(".")[0] for name in learnt} == {"unet"} and not part.reads_prompts
    assert not any(
        value.requires_grad for one in model.encoders for value in one.module.parameters()
    )
    model = load(family)
    part, learnt = attached(model, text_encoder_learning_rate=0.25)
    of_unet, of_text = part.parameter_groups()
    assert "learning_rate" not in of_unet and of_text["learning_rate"] == 0.25
    count = sum(len(list(one.parameters())) for one in model.modules.values())
    assert len(of_unet["params"]) + len(of_text["params"]) == len(learnt) == count
    assert all(value.requires_grad for value in learnt.values()) and part.reads_prompts


@pytest.mark.parametrize("half", [False, True])
def test_the_teacher_is_the_model_as_it_was(load, half):
    model = load("sd1")
    before = copies(dict(model.unet.named_parameters()))
    part, learnt = attached(model, keeps_first=True, half=half, text_encoder_learning_rate=1.0)
    now, encoder = model.unet, model.encoders[0].module
    come_some_way(learnt)
    with part.unlearnt():
        assert model.unet is not now and model.encoders[0].module is not encoder
        dtype = torch.bfloat16 if half else torch.float32
        first = dict(model.unet.named_parameters())
        assert equal(first, {name: value.to(dtype) for name, value in before.items()})
        assert not any(value.requires_grad for value in first.values())
    assert model.unet is now and model.encoders[0].module is encoder


def test_a_mean_that_is_kept_since_a_checkpoint_begins_with_its_weights(load):
    begun = load("sd1")
    come_some_way(dict(begun.unet.named_parameters()), 2)  # as another trial's model may be
    part, learnt = attached(begun)
    come_some_way(learnt)
    state = part.state_dict()
    del state["unet.conv_out.bias"]
    later, taken = attached(load("sd1"), ema_decay=0.9)
    assert later.load_state_dict(state) == ["unet.conv_out.bias"]
    del taken["unet.conv_out.bias"], learnt["unet.conv_out.bias"]
    with later.shown():
        assert equal(taken, learnt)
    assert equal(taken, learnt)
    assert later.moved().share == pytest.approx(part.moved().share, rel=1e-3)
