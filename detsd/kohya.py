"""What kohya's tools call the modules of Stable Diffusion: one flat name each, and back again."""

import re
from collections.abc import Mapping

_PREFIXES = {
    "sd": {"unet": "lora_unet_", "text_encoder": "lora_te_"},
    "sdxl": {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
}
_PARTS = {prefix: part for parts in _PREFIXES.values() for part, prefix in parts.items()}

# The segments of dotted names: some have underscores, so a flat name cannot just be split.
_SEGMENTS = (
    *("down_blocks", "mid_block", "up_blocks", "attentions", "resnets", "downsamplers"),
    *("upsamplers", "transformer_blocks", "attn1", "attn2", "to_q", "to_k", "to_v", "to_out"),
    *("ff", "net", "proj", "proj_in", "proj_out", "conv", "conv1", "conv2", "conv_in"),
    *("conv_out", "conv_shortcut", "time_emb_proj", "time_embedding", "add_embedding"),
    *("linear_1", "linear_2", "text_model", "encoder", "layers", "self_attn", "q_proj"),
    *("k_proj", "v_proj", "out_proj", "mlp", "fc1", "fc2", "text_projection"),
)
_LONGEST_FIRST = "|".join(sorted(_SEGMENTS, key=len, reverse=True))
_SEGMENT = re.compile(rf"(?:^|(?<=_))(?:{_LONGEST_FIRST}|\d+)(?=_|$)")

_IN_RESNET = {
    "conv1": "in_layers_2",
    "time_emb_proj": "emb_layers_1",
    "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
}
_BLOCKS = 3
_LAYERS = 3  # of a down block: two ResNets and a downsampler; of an up block: three ResNets


def _sdxl_names() -> dict[str, str]:
    """Return what SDXL's authors call its UNet's modules, by diffusers' names, both flat.

    Kohya's tools keep to the authors' names for SDXL, and to diffusers' for everything else.
    """
    names = {
        "conv_in": "input_blocks_0_0",
        "conv_out": "out_2",
        "time_embedding_linear_1": "time_embed_0",
        "time_embedding_linear_2": "time_embed_2",
        "add_embedding_linear_1": "label_emb_0_0",
        "add_embedding_linear_2": "label_emb_0_2",
        "mid_block_attentions_0": "middle_block_1",
    }
    resnets = {"mid_block_resnets_0": "middle_block_0", "mid_block_resnets_1": "middle_block_2"}
    for block in range(_BLOCKS):
        names[f"down_blocks_{block}_downsamplers_0_conv"] = f"input_blocks_{3 + 3 * block}_0_op"
        names[f"up_blocks_{block}_upsamplers_0_conv"] = f"output_blocks_{2 + 3 * block}_2_conv"
        for layer in range(_LAYERS):
            place = _LAYERS * block + layer
            resnets[f"up_blocks_{block}_resnets_{layer}"] = f"output_blocks_{place}_0"
            names[f"up_blocks_{block}_attentions_{layer}"] = f"output_blocks_{place}_1"
        for layer in range(_LAYERS - 1):
            place = _LAYERS * block + layer + 1  # the first is conv_in
            resnets[f"down_blocks_{block}_resnets_{layer}"] = f"input_blocks_{place}_0"
            names[f"down_blocks_{block}_attentions_{layer}"] = f"input_blocks_{place}_1"
    for ours, theirs in resnets.items():
        names |= {f"{ours}_{one}": f"{theirs}_{other}" for one, other in _IN_RESNET.items()}
    return names


_TO_SDXL = _sdxl_names()
_FROM_SDXL = {theirs: ours for ours, theirs in _TO_SDXL.items()}


def flatten(module: str, sdxl: bool) -> str | None:
    """Return kohya's name of "unet.conv_in" and the like, None for what has no name there."""
    part, _, path = module.partition(".")
    prefix = _PREFIXES["sdxl" if sdxl else "sd"].get(part, "")
    flat = path.replace(".", "_")
    if sdxl and part == "unet":
        flat = _renamed(flat, _TO_SDXL) or ""
    return prefix + flat if unflatten(prefix + flat) == module else None


def unflatten(name: str) -> str | None:
    """Return the module that kohya's tools call so, or None if it is none of Stable Diffusion."""
    prefix = next((prefix for prefix in _PARTS if name.startswith(prefix)), None)
    if prefix is None:
        return None
    flat = name.removeprefix(prefix)
    flat = _renamed(flat, _FROM_SDXL) or flat
    segments = _SEGMENT.findall(flat)
    known = segments and "_".join(segments) == flat
    return ".".join([_PARTS[prefix], *segments]) if known else None


def is_sdxl(name: str) -> bool:
    """Return whether only SDXL has a module that kohya's tools call so."""
    flat = name.removeprefix("lora_unet_")
    return name.startswith("lora_te2_") or (flat != name and _renamed(flat, _FROM_SDXL) is not None)


def _renamed(flat: str, names: Mapping[str, str]) -> str | None:
    """Return the name with its beginning, a whole module's or block's, as `names` has it."""
    for old, new in names.items():
        if flat == old or flat.startswith(f"{old}_"):
            return new + flat[len(old) :]
    return None
