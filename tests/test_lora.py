"""Low-rank changes: of the layers that are named, and the same wherever their file is read."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from detsd.adapters import read_adapter
from detsd.config import ConfigError, ModelConfig
from detsd.pretrained import load_model
from detsd.sampler import Request, Settings, build_scheduler, generate
from tests.trials import EVERYTHING, LORA, last, run


def test_a_target_that_the_model_lacks_is_refused_with_what_it_has(tmp_path, make):
    with pytest.raises(ConfigError, match="down_blocks.7.attention is nowhere .* mid_block"):
        run(tmp_path, make({"kind": "lora", "targets": "down_blocks.7.attention"}))


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
