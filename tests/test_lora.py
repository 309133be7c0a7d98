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
from tests.trials import EVERYTHING, LORA, last, run


def attached(model, **keys):
    """Return changes in the model that learn, and what of them does by name."""
    part = LearntAdapter(read(LoraConfig, {**LORA, **keys}), 0, model, half=False)
    return part, dict(pair for group in part.parameter_groups() for pair in group["params"])


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
