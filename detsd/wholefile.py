"""A file that holds a whole model in the original layout: its tensors, by the names of that."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from detsd.checkpoints import read_export
from detsd.torchfile import INERT, is_torch_file, map_torch_file

UNET = "model.diffusion_model."
_BLOCKS = (f"{UNET}input_blocks.", f"{UNET}output_blocks.")
FIRST = f"{UNET}input_blocks.0.0.weight"  # what the noisy latents go into
CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")

Tensors = dict[str, torch.Tensor]

_PARTS = {"VAE": ("first_stage_model.", "vae."), "text encoder": CLIP + OPEN_CLIP}
_OF_DIFFUSERS = ("down_blocks.", "encoder.down_blocks.", "text_model.")
# What a file from before safetensors may have beside the weights: how training went.
_BESIDE = frozenset(
    {
        *INERT,
        *("argparse Namespace", "collections defaultdict"),
        *(
            f"{module} {kind}"
            for module in ("builtins", "__builtin__")
            for kind in ("dict", "list")
        ),
        *("pathlib PosixPath", "pathlib WindowsPath", "pathlib PurePosixPath"),
        *("torch Size", "torch device", "torch float32", "torch float16", "torch bfloat16"),
        "pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint",
        "lightning.pytorch.callbacks.model_checkpoint ModelCheckpoint",
    }
)
_MOST_BLOCKS = (
    24  # of input and of output: SD 1 and 2 have 12, and what looks for them is quadratic
)
# The running mean of the UNet's weights has their names without the dots.
_MEAN = "model_ema."
_MEAN_OF_UNET = f"{_MEAN}diffusion_model"
_TWO_NUMBERS = re.compile(r"(input_blocks|output_blocks|label_emb)(\d+)(\d)")
_PIECE = re.compile(
    r"input_blocks|output_blocks|middle_block|time_embed|label_emb|transformer_blocks"
    r"|in_layers|out_layers|emb_layers|skip_connection|attn\d|norm\d?|proj_in|proj_out|proj"
    r"|to_out|to_q|to_k|to_v|net|ff|conv|out|op|weight|bias|\d+"
)


def read_whole_file(path: Path) -> Tensors:
    """Return the tensors, views of the file, or raise a ValueError; nothing in it is run."""
    tensors = _read(path)
    if not _has(tensors, (UNET,)):
        tensors |= _spelt_out(tensors)
    tensors = {key: one for key, one in tensors.items() if not key.startswith(_MEAN)}
    if not _has(tensors, (UNET,)):
        raise ValueError(_what_else(path, tensors))
    if FIRST not in tensors or tensors[FIRST].dim() != 4:
        raise ValueError("holds a UNet that is none of Stable Diffusion 1, 2 or XL")
    if len({key.split(".")[3] for key in tensors if key.startswith(_BLOCKS)}) > _MOST_BLOCKS:
        raise ValueError(f"holds a UNet of more than {_MOST_BLOCKS} blocks")
    if all(_has(tensors, (prefix,)) for prefix in _PARTS["VAE"]):
        raise ValueError(f"holds two VAEs ({' and '.join(_PARTS['VAE'])}): one is wanted")
    for part, prefixes in _PARTS.items():
        if not _has(tensors, prefixes):
            wanted = " or ".join(f"{prefix}…" for prefix in prefixes)
            raise ValueError(f"holds no {part} ({wanted}) beside its UNet: a whole model is wanted")
    return tensors


def _read(path: Path) -> Tensors:
    with path.open("rb") as file:
        start = file.read(16)
    # The length that a safetensors file begins with may be anything, a pickle's start too.
    if start[8:9] != b"{" and is_torch_file(start):
        return _read_torch_file(path)
    try:
        with safe_open(path, framework="pt") as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"is neither a safetensors file nor one of torch.save, or is damaged ({error})"
        ) from None


def _read_torch_file(path: Path) -> Tensors:
    values: Any = map_torch_file(path, _BESIDE)
    while isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if not isinstance(values, dict):
        raise ValueError(f"holds a {type(values).__name__}, where tensors with names are wanted")
    return {
        key: one
        for key, one in values.items()
        if isinstance(key, str) and isinstance(one, torch.Tensor)
    }


def _spelt_out(tensors: Tensors) -> Tensors:
    """Return the UNet's running mean by the names that its weights have."""
    found = {}
    for key, one in tensors.items():
        flat = key.removeprefix(_MEAN_OF_UNET)
        pieces = _PIECE.findall(_TWO_NUMBERS.sub(r"\1.\2.\3.", flat))
        if flat != key and "".join(pieces) == flat:
            found[UNET + ".".join(pieces)] = one
    return found


def _has(tensors: Tensors, prefixes: tuple[str, ...]) -> bool:
    return any(key.startswith(prefixes) for key in tensors)


def _what_else(path: Path, tensors: Tensors) -> str:
    """Return what is in a file without a UNet, and where that belongs."""
    if _has(tensors, _OF_DIFFUSERS):
        return "is a part of a model in diffusers' layout: name the folder that has all parts in it"
    try:
        export = read_export(path)
    except ValueError:
        return f"holds no UNet ({UNET}…), as a model in the original layout does"
    return f"is {'an adapter' if export.adapter else 'a concept'}: name the model it was made for"
