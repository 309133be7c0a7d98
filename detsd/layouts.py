"""What each layout of an adapter's file calls the tensors of a module."""

import re
from collections.abc import Mapping

from torch import Tensor

from detsd import kohya

DOWN, UP, ALPHA, MAGNITUDE = "down", "up", "alpha", "magnitude"
SCALE = "dora_scale"  # kohya's magnitude: its shape means something else than peft's does

# How a tensor's name ends, in the order in which it is looked for.
_ENDS = {
    ".lora_A.weight": DOWN,  # peft
    ".lora_B.weight": UP,
    ".lora.down.weight": DOWN,  # diffusers: a UNet
    ".lora.up.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,  # diffusers: a text encoder
    ".lora_linear_layer.up.weight": UP,
    "_lora.down.weight": DOWN,  # diffusers before it used peft: an attention processor
    "_lora.up.weight": UP,
    ".lora_down.weight": DOWN,  # kohya
    ".lora_up.weight": UP,
    ".lora_magnitude_vector": MAGNITUDE,
    ".lora_magnitude_vector.weight": MAGNITUDE,
    ".dora_scale": SCALE,
    ".lora.alpha": ALPHA,
    ".lora_linear_layer.alpha": ALPHA,
    "_lora.alpha": ALPHA,
    ".alpha": ALPHA,
}
# Diffusers loads these into the UNet and into text encoders; mixed with peft's names it would
# load some modules only. Without its last ".weight", it drops a text encoder's magnitude.
_UNET = {DOWN: ".lora.down.weight", UP: ".lora.up.weight", MAGNITUDE: ".lora_magnitude_vector"}
_TEXT = {
    DOWN: ".lora_linear_layer.down.weight",
    UP: ".lora_linear_layer.up.weight",
    MAGNITUDE: ".lora_magnitude_vector.weight",
}
_KOHYA = {
    DOWN: ".lora_down.weight",
    UP: ".lora_up.weight",
    SCALE: ".dora_scale",
    ALPHA: ".alpha",
}
_PARTS = ("unet", "text_encoder", "text_encoder_2")
# What an attention processor calls the parts of a text encoder's attention.
_IN_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_UNET_ROOTS = (
    *("down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out"),
    *("time_embedding", "add_embedding"),
)
# How the tensors of an adapter are called and nothing else, also where the method is another one.
_OF_A_LAYER = re.compile(
    r"[._]lora\.(down|up)\.weight$|\.lora_linear_layer\.(down|up)\.weight$|^lora_(unet|te\d?)_"
    r"|\.lora_(down|up|mid|A|B|embedding_A|embedding_B)(\.\w+)?$|\.(hada|lokr|b?oft)_\w+(\.weight)?$"
)
# Methods of others that go by the name of LoRA, too, and what gives them away.
_OTHERS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid.": "LoCon with a Tucker decomposition",
    "lora_embedding_": "LoRA of an embedding",
    "lora_B.bias": "LoRA with biases",
    ".diff.": "a difference of whole weights",
    "transformer.": "LoRA of a transformer such as Flux or SD3",
    "base_model.": "LoRA in peft's own layout",
}


def is_a_layers(key: str) -> bool:
    """Return whether a tensor of that name is an adapter's, of whatever method."""
    return _OF_A_LAYER.search(key) is not None


def by_module(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors by module and role, or raise a ValueError where a name is no layout's."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        place = _place_of(key)
        if place is None:
            raise ValueError(_why_strange(key))
        module, role = place
        if role in found.setdefault(module, {}):
            raise ValueError(f"has {module} twice, also as {key}; one of them is wanted")
        found[module][role] = tensor
    if not found:
        raise ValueError("holds no tensors")
    return found


def _place_of(key: str) -> tuple[str, str] | None:
    """Return the module, by its name in records, and the role that a tensor of that name has."""
    end = next((end for end in _ENDS if key.endswith(end)), None)
    if end is None:
        return None
    name = key.removesuffix(end)
    module = kohya.unflatten(name) if name.startswith("lora_") else _diffusers_module(name)
    return None if module is None else (_with_text_model(module), _ENDS[end])


def _why_strange(key: str) -> str:
    method = next((method for sign, method in _OTHERS.items() if sign in f"{key}."), None)
    if method is not None:
        return f"holds {method} ({key}), which is not supported; LoRA, LoCon and DoRA are"
    return (
        f"{key} is no tensor's name in any layout of LoRA; those of diffusers "
        "(unet.….lora.down.weight) and kohya (lora_unet_….lora_down.weight) are wanted"
    )


def diffusers_key(module: str, role: str) -> str:
    """Return the name that diffusers finds the tensor by, whatever its age."""
    return module + (_UNET if module.startswith("unet.") else _TEXT)[role]


def kohya_key(name: str, role: str) -> str:
    """Return what kohya's tools call the tensor, of a module by their name."""
    return name + _KOHYA[role]


def _diffusers_module(name: str) -> str | None:
    part, _, path = name.partition(".")
    if part in _UNET_ROOTS:  # written for a UNet alone
        part, path = "unet", name
    if part not in _PARTS or not path:
        return None
    path = path.replace(".processor.", ".")
    head, dot, last = path.rpartition(".")
    if part == "unet":
        return f"unet.{path}.0" if last == "to_out" else f"unet.{path}"
    return f"{part}.{head}{dot}{_IN_TEXT.get(last, last)}"


def _with_text_model(module: str) -> str:
    # Transformers 5 has taken this segment out of the first encoder's names; files keep it.
    part, _, path = module.partition(".")
    if part == "unet" or path.startswith(("text_model.", "text_projection")):
        return module
    return f"{part}.text_model.{path}"
