"""The tiny models as single files in the original layout, named the other way round by hand."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from detsd.config import ModelConfig, read
from detsd.model import StableDiffusion
from detsd.pretrained import ModelError, load_model

Tensors = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OF_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OF_OPEN_CLIP = {
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}


def original(folder: Path, family: str) -> Tensors:
    """Return the tensors of a model in diffusers' layout as a single file has them."""
    model = load(folder, None)
    first, *second = (encoder.module.state_dict() for encoder in model.encoders)
    parts = {
        "model.diffusion_model.": of_unet(model.unet),
        "first_stage_model.": of_vae(model.vae),
    }
    if family == "sd2":
        parts["cond_stage_model.model."] = of_open_clip(first)
    else:
        place = "cond_stage_model" if family == "sd1" else "conditioner.embedders.0"
        parts[f"{place}.transformer.text_model."] = of_clip(first)
    if second:
        parts["conditioner.embedders.1.model."] = of_open_clip(second[0])
    return {
        prefix + name: one.clone().contiguous()
        for prefix, tensors in parts.items()
        for name, one in tensors.items()
    }


def of_unet(unet: Any) -> Tensors:
    each = unet.config.layers_per_block + 1

    def named(name: str) -> str:
        kind, *rest = name.split(".")
        if kind not in ("down_blocks", "mid_block", "up_blocks"):
            return renamed(name, OF_UNET)
        if kind == "mid_block":
            part, number, *inner = rest
            place = f"middle_block.{1 if part == 'attentions' else 2 * int(number)}"
        else:
            block, part, number, *inner = rest
            first = int(block) * each + (kind == "down_blocks")
            sides = "input_blocks" if kind == "down_blocks" else "output_blocks"
            if part == "downsamplers":
                return f"{sides}.{first + each - 1}.0.op.{inner[-1]}"
            if part == "upsamplers":
                has_attention = f"up_blocks.{block}.attentions.0.norm.weight" in unet.state_dict()
                return f"{sides}.{first + each - 1}.{1 + has_attention}.conv.{inner[-1]}"
            place = f"{sides}.{first + int(number)}.{int(part == 'attentions')}"
        inside = ".".join(inner)
        return f"{place}.{inside if part == 'attentions' else renamed(inside, RESNET)}"

    return {named(name): one for name, one in unet.state_dict().items()}


def of_vae(vae: Any) -> Tensors:
    last = len(vae.config.block_out_channels) - 1
    found = {}
    for name, one in vae.state_dict().items():
        name = re.sub(
            r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{last - int(m[1])}", name
        )
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            name = renamed(name, {"mid_block.attentions.0": "mid.attn_1", **ATTENTION})
            one = one[..., None, None] if one.dim() == 2 else one  # a convolution of one pixel
        found[
            renamed(
                name,
                {
                    "encoder.down_blocks": "encoder.down",
                    "resnets": "block",
                    "downsamplers.0": "downsample",
                    "upsamplers.0": "upsample",
                    "conv_shortcut": "nin_shortcut",
                    "conv_norm_out": "norm_out",
                },
            )
        ] = one
    return found


def of_clip(state: Tensors) -> Tensors:
    places = torch.arange(77)[None]  # a buffer that old files have
    return {**bare(state), "embeddings.position_ids": places}


def of_open_clip(state: Tensors) -> Tensors:
    found = {"logit_scale": torch.tensor(4.6)}
    for name, one in bare(state).items():
        if name == "text_projection.weight":
            found["text_projection"] = one.T
        elif match := re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            place, role, kind = match.groups()
            if role == "q":
                rows = [bare(state)[f"{place}.self_attn.{each}_proj.{kind}"] for each in "qkv"]
                found[f"{renamed(place, OF_OPEN_CLIP)}.attn.in_proj_{kind}"] = torch.cat(rows)
        else:
            found[renamed(name, OF_OPEN_CLIP)] = one
    return found


def bare(state: Tensors) -> Tensors:
    return {name.removeprefix("text_model."): one for name, one in state.items()}


def renamed(name: str, names: Mapping[str, str]) -> str:
    for one, other in names.items():
        name = re.sub(rf"(?<![a-z_]){re.escape(one)}(?![a-z_0-9])", other, name)
    return name


def with_mean_alone(tensors: Tensors) -> Tensors:
    """Return them with the UNet's running mean in place of its weights."""
    start = "model."
    return {
        f"model_ema.{key.removeprefix(start).replace('.', '')}"
        if key.startswith("model.diffusion_model.")
        else key: one
        for key, one in tensors.items()
    }


def load(path: Path, configs: Path | None, **arguments: Any) -> StableDiffusion:
    named = {"pretrained_model_name_or_path": str(path)}
    if configs is not None:
        named["config_name_or_path"] = str(configs)
    return load_model(read(ModelConfig, named), torch.device("cpu"), **arguments)


def assert_same(found: StableDiffusion, wanted: StableDiffusion) -> None:
    pairs = {**found.modules, "vae": found.vae}, {**wanted.modules, "vae": wanted.vae}
    assert pairs[0].keys() == pairs[1].keys()
    for part, module in pairs[0].items():
        states = module.state_dict(), pairs[1][part].state_dict()
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            assert value.dtype == states[1][name].dtype, (part, name)
            assert torch.equal(value, states[1][name]), (part, name)
        assert not module.training
        assert not any(value.requires_grad for value in module.parameters())


def assert_refused(path: Path, configs: Path | None, said: str, **arguments: Any) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        load(path, configs, **arguments)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
