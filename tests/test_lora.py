"""Low-rank changes: of the layers that are named, and the same wherever their file is read."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from detsd.adapters import read_adapter
from detsd.config import ConfigError, LoraConfig, ModelConfig, read
from detsd.lora import LearntAdapter
from detsd.pretrained import load_model
from detsd.sampler import Request, Settings, build_scheduler, generate
from tests.made_up import weight_of
from tests.trials import EVERYTHING, LORA, last, run


def attached(model, seed=0, **keys):
    """Return changes in the model that learn, and what of them does by name."""
    part = LearntAdapter(read(LoraConfig, {**LORA, **keys}), seed, model, half=False)
    return part, dict(pair for group in part.parameter_groups() for pair in group["params"])


@torch.no_grad()
def come_some_way(learnt):
    """Change everything that learns, as steps would."""
    generator = torch.Generator().manual_seed(1)
    for value in learnt.values():
        value += value.abs().mean().clamp(min=0.1) * torch.randn(value.shape, generator=generator)


@torch.no_grad()
def predicted(model):
    """Return what the model makes of some noise and a prompt."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    origins = torch.tensor([[16, 16, 0, 0]])
    return model.predict(noise, torch.tensor([500]), model.encode_prompts(["a logo"]), origins)


def test_a_target_that_the_model_lacks_is_refused_with_what_it_has(tmp_path, make):
    with pytest.raises(ConfigError, match="down_blocks.7.attention is nowhere .* mid_block"):
        run(tmp_path, make({"kind": "lora", "targets": "down_blocks.7.attention"}))


SELECTED = {
    "self_attention": {
        f"{block}.attentions.{number}.transformer_blocks.0.attn1.to_{name}"
        for block, count in (("down_blocks.1", 1), ("mid_block", 1), ("up_blocks.0", 2))
        for number in range(count)
        for name in ("q", "k", "v", "out.0")
    },
    "down_blocks.0.convolutions": {
        *("down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.0.conv2"),
        "down_blocks.0.downsamplers.0.conv",
    },
    "mid_block.projections": {f"mid_block.attentions.0.proj_{way}" for way in ("in", "out")},
    "up_blocks.0.attentions.1.feed_forward": {
        f"up_blocks.0.attentions.1.transformer_blocks.0.ff.net.{name}" for name in ("0.proj", "2")
    },
    # A part that the layers follow at once.
    "mid_block.resnets.1.convolutions": {f"mid_block.resnets.1.conv{n}" for n in (1, 2)},
    "mid_block.attentions.0.transformer_blocks.0.cross_attention": {
        f"mid_block.attentions.0.transformer_blocks.0.attn2.to_{name}"
        for name in ("q", "k", "v", "out.0")
    },
}


@pytest.mark.parametrize("target", SELECTED)
def test_a_target_is_the_layers_that_it_names_and_no_others(load, target):
    found = {name.rpartition(".")[0] for name in attached(load("sd1"), targets=[target])[1]}
    assert found == {f"unet.{name}" for name in SELECTED[target]}


def test_a_block_alone_can_be_the_target(tmp_path, make):
    folder = run(
        tmp_path, make({"kind": "lora", "targets": "up_blocks.0.cross_attention", "rank": 2})
    )
    tensors = load_file(last(folder) / "export" / "pytorch_lora_weights.safetensors")
    assert tensors
    assert all(name.startswith("unet.up_blocks.0.") and "attn2" in name for name in tensors)
    assert {min(value.shape) for value in tensors.values()} == {2}


@pytest.mark.parametrize(
    ("family", "kind"), [("sd1", LORA), ("sd2", EVERYTHING), ("sdxl", EVERYTHING)]
)
def test_plain_diffusers_draws_the_same_with_what_was_learnt(tmp_path, make, models, family, kind):
    method = {**kind, "dropout": 0.0}
    method.pop("vectors_learning_rate", None)
    export = last(run(tmp_path, make(method, family=family))) / "export"
    plain = DiffusionPipeline.from_pretrained(models[family], safety_checker=None)
    plain.load_lora_weights(export)
    ours = load_model(
        ModelConfig(pretrained_model_name_or_path=str(models[family])), torch.device("cpu")
    )
    ours.add_adapter("learnt", read_adapter(export))
    settings = Settings("ddim", {}, 3)
    request = Request("a photo of a fbernuy logo", 5, 7.5, settings)
    [(_, image)] = generate(ours, [request])
    plain.scheduler = build_scheduler(ours, settings)
    plain.set_progress_bar_config(disable=True)

    def draw():
        generator = torch.Generator().manual_seed(5)
        settings = {"num_inference_steps": 3, "guidance_scale": 7.5, "generator": generator}
        return plain(request.prompt, **settings).images[0]

    theirs = draw()
    plain.unload_lora_weights()
    without = draw()
    image, theirs, without = (np.asarray(one).astype(int) for one in (image, theirs, without))
    assert abs(image - theirs).max() <= 1
    assert abs(image - without).max() > 1


def test_changes_begin_as_none_and_follow_from_the_seed_and_the_layer(load):
    model = load("sd1")
    before = predicted(model)
    keys = {"targets": ["attention", "convolutions"], "text_encoder_learning_rate": 1.0}
    _, first = attached(model, **keys)
    assert torch.equal(predicted(model), before)
    downs = {name: value for name, value in first.items() if name.endswith(".down")}
    assert len({tuple(value.flatten().tolist()) for value in downs.values()}) == len(downs)
    _, fewer = attached(load("sd1"), targets=["mid_block.cross_attention"])
    assert fewer.keys() < first.keys()
    assert all(torch.equal(fewer[name], first[name]) for name in fewer)
    _, other = attached(load("sd1"), seed=1, **keys)
    assert not any(
        torch.equal(other[name], first[name]) for name in first if name.endswith(".down")
    )
    doras = load("sd1")
    attached(doras, dora=True, **keys)
    assert torch.allclose(predicted(doras), before, atol=1e-5)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_text_encoders_change_where_they_have_a_rate_and_as_much_as_is_asked(load, family):
    def changed(**keys):
        _, learnt = attached(load(family), **keys)
        return {name.rpartition(".")[0] for name in learnt if not name.startswith("unet.")}

    assert not changed()
    attention = changed(text_encoder_learning_rate=0.0, targets=["cross_attention"])
    more = changed(text_encoder_learning_rate=0.0, targets=["attention", "feed_forward"])
    count = 2 if family == "sdxl" else 1
    assert len(attention) == 3 * 4 * count and len(more - attention) == 3 * 2 * count
    kinds = {name.rpartition(".")[2] for name in attention}
    assert kinds == {"q_proj", "k_proj", "v_proj", "out_proj"} and attention < more


def test_rank_alpha_and_magnitudes_reach_the_file(load, tmp_path):
    model = load("sdxl")
    keys = {"rank": 3, "alpha": 6, "dora": True, "text_encoder_learning_rate": 1.0}
    part, learnt = attached(model, **keys)
    come_some_way(learnt)
    part.export(tmp_path, {"steps": 5})
    found = read_adapter(tmp_path)
    assert found.about == {"steps": 5, "family": "sdxl"}
    assert {(layer.rank, layer.alpha) for layer in found.layers.values()} == {(3, 6.0)}
    for name, layer in found.layers.items():
        assert torch.equal(layer.magnitude, learnt[f"{name}.magnitude"])
        assert torch.equal(layer.down, learnt[f"{name}.down"])
        assert torch.allclose(layer.up, learnt[f"{name}.up"])
    assert len(learnt) == 3 * len(found.layers)


def test_dropout_follows_from_the_seed_and_the_slot(load):
    part, learnt = attached(load("sd1"))
    come_some_way(learnt)
    state = part.state_dict()

    def drawn(slot, seed=0):
        model = load("sd1")
        part, _ = attached(model, seed, dropout=0.5)
        assert not part.load_state_dict(state)
        with part.learning(slot):
            return predicted(model)

    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = drawn(slot=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(drawn(slot=7), first)
    assert not torch.equal(drawn(slot=8), first)
    assert not torch.equal(drawn(slot=7, seed=1), first)


def test_nothing_is_dropped_from_what_is_shown(load):
    model = load("sd1")
    part, learnt = attached(model, dropout=0.5)
    come_some_way(learnt)
    whole = load("sd1")
    _, same_values = attached(whole)
    come_some_way(same_values)
    for _ in range(2):  # and while it learns something is, before and after
        with part.shown():
            assert torch.equal(predicted(model), predicted(whole))
        with part.learning(0):
            assert not torch.allclose(predicted(model), predicted(whole))


def test_without_what_was_learnt_the_model_is_as_it_was(load):
    model = load("sd1")
    before = predicted(model)
    part, learnt = attached(model, dora=True, text_encoder_learning_rate=1.0)
    come_some_way(learnt)
    changed = predicted(model)
    with pytest.raises(ZeroDivisionError), part.unlearnt():
        assert torch.equal(predicted(model), before)
        1 / 0  # noqa: B018
    assert torch.equal(predicted(model), changed) and not torch.equal(changed, before)
    assert all(value.requires_grad for value in learnt.values())


def test_the_distance_is_the_changes_length_beside_the_weights(load):
    model = load("sd1")
    part, learnt = attached(model, alpha=2, rank=4, targets=["attention", "convolutions"])
    assert part.moved().share == 0
    come_some_way(learnt)
    names = {name.rpartition(".")[0] for name in learnt}
    weights = torch.cat([weight_of(model, name).flatten() for name in names])
    changes = [learnt[f"{n}.up"].flatten(1) @ learnt[f"{n}.down"].flatten(1) for n in names]
    length = torch.cat([change.flatten() for change in changes]).norm() * 2 / 4
    assert part.moved().share == pytest.approx((length / weights.norm()).item(), rel=1e-4)


def test_a_state_of_another_shape_is_told_apart_and_the_rest_is_taken(load):
    part, learnt = attached(load("sd1"), targets=["mid_block.cross_attention"])
    come_some_way(learnt)
    state = part.state_dict()
    lacking, misshapen, *rest = sorted(state)
    del state[lacking]
    state[misshapen] = state[misshapen][:1]
    other, taken = attached(load("sd1"), seed=1, targets=["mid_block.cross_attention"])
    assert sorted(other.load_state_dict(state)) == [lacking, misshapen]
    assert all(torch.equal(taken[name], learnt[name]) for name in rest)
