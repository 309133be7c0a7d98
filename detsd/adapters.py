"""An adapter (LoRA), and the file that it is kept in."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detsd import kohya, layouts
from detsd.concepts import ADAPTER_FILE, EARLIER_FILE, METADATA_KEY, ConceptError, read_concepts
from detsd.contents import read_json
from detsd.embeddings import BUNDLE
from detsd.layers import Layer, checked_alpha, layer_of, unfolded
from detsd.layouts import ALPHA, DOWN, MAGNITUDE, SCALE, UP
from detsd.peftconfig import METADATA_KEY as OF_PEFT
from detsd.peftconfig import alphas_in
from detsd.reason import one_line, reason
from detsd.tensorfile import Tensors, read_tensors, write_tensors

SUFFIX = ".safetensors"
FILE = ADAPTER_FILE
LAYOUTS = ("diffusers", "kohya")

# Diffusers' layout has no alpha: what became part of `up` is noted, to be taken out again.
_FOLDED = "folded_alpha"
_NOTED_BY_KOHYA = {"ss_steps": "steps", "ss_sd_model_name": "base_model"}
_OF_LAYERS = re.compile(r"[._]lora[._]|\.(hada|lokr|oft)_")
_SD2_WIDTH = 1024  # of its text encoder; 768 in SD 1


class AdapterError(ValueError):
    """An adapter that cannot be read, or not be kept in the layout that is wanted."""


class ConceptFoundError(AdapterError):
    """A concept was given where an adapter is wanted."""


@dataclass(frozen=True)
class Adapter:
    """The layers by part and module, "unet.mid_block.attentions.0.proj_in", in float32.

    The modules of text encoders begin with `text_model.`, whatever the version of transformers.
    """

    layers: dict[str, Layer]
    about: dict[str, Any] = field(default_factory=dict)  # steps, base model, version, family

    @property
    def is_sdxl(self) -> bool:
        """Whether it says so, or has a layer that only SDXL has a place for."""
        return self.about.get("family") == "sdxl" or any(
            module.startswith(("text_encoder_2.", "unet.add_embedding."))
            or ".transformer_blocks.1." in module
            for module in self.layers
        )


def read_adapter(path: Path) -> Adapter:
    """Return the adapter in a file of any layout, or in a checkpoint's folder."""
    path = _find(Path(path))
    try:
        tensors, metadata = read_tensors(path)
        # Words that lie there too are for concepts.bundled_concepts to read.
        own = {key: value for key, value in tensors.items() if not key.startswith(BUNDLE)}
        return _adapter(own, metadata)
    except OSError as error:
        said = f"cannot be read: {error.strerror}"
    except ValueError as error:  # ours and those of the modules below: each says what is wrong
        said = str(error)
    # A stranger's file fails in ways that nobody has thought of.
    except Exception as error:
        said = f"is damaged, or no adapter ({reason(error)})"
    _refuse_concept(path)
    raise AdapterError(f"{path}: {one_line(said)}")


def write_adapter(path: Path, adapter: Adapter, layout: str = "diffusers") -> None:
    """Write the adapter's file in one of `LAYOUTS`; a crash leaves the old file or the new one."""
    if layout not in LAYOUTS:
        raise AdapterError(f"format: {' or '.join(LAYOUTS)} is wanted, found {layout!r}")
    write = _write_kohya if layout == "kohya" else _write_diffusers
    write(Path(path), adapter)


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise AdapterError(f"{path}: no such file or folder")
    for folder in (path, path / "export"):
        if (folder / FILE).is_file():
            return folder / FILE
    _refuse_concept(path)
    names = sorted(one.name for one in path.iterdir())
    found = one_line(", ".join(names[:5])) or "nothing"
    raise AdapterError(f"{path}: holds no {FILE}; found {found}")


def _refuse_concept(path: Path) -> None:
    if path.is_file() and path.suffix != SUFFIX and path.name != EARLIER_FILE:
        return  # no pickle is read in search of one
    try:
        names = [concept.name for concept in read_concepts(path)]
    except ConceptError:
        return
    if not any(_OF_LAYERS.search(name) for name in names):  # half a layer looks like one
        raise ConceptFoundError(f"{path}: is a concept, not an adapter")


def _adapter(tensors: Tensors, metadata: Mapping[str, str]) -> Adapter:
    """Return the adapter of a file's content, or raise a ValueError."""
    about = {**_noted_by_kohya(tensors, metadata), **_json(metadata, METADATA_KEY)}
    folded = about.pop(_FOLDED, {})
    alphas = alphas_in(_json(metadata, OF_PEFT))
    layers = {}
    for module, given in sorted(layouts.by_module(tensors).items()):
        try:
            layer = layer_of(given)
            part, _, place = module.partition(".")
            if part in alphas:
                layer = layer._replace(alpha=checked_alpha(alphas[part].of(place, layer.rank)))
            if (alpha := folded.get(module) if isinstance(folded, dict) else folded) is not None:
                layer = unfolded(layer, checked_alpha(alpha))
        except ValueError as error:
            raise ValueError(f"{module}: {error}") from None
        layers[module] = layer
    return Adapter(layers, about)


def _noted_by_kohya(tensors: Tensors, metadata: Mapping[str, str]) -> dict[str, Any]:
    texts = {name: metadata[key] for key, name in _NOTED_BY_KOHYA.items() if key in metadata}
    # A number of thousands of digits is none that anyone counted to, and Python takes no such text.
    counted = {
        name: int(text) for name, text in texts.items() if text.isdecimal() and len(text) < 19
    }
    noted = texts | counted
    sdxl = any(kohya.is_sdxl(key.partition(".")[0]) for key in tensors)
    return noted | ({"family": "sdxl"} if sdxl else {})


def _json(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        return read_json(metadata.get(key, "{}"))
    except ValueError as error:
        raise ValueError(f"its metadata is damaged, {key} ({error})") from None


def _write_diffusers(path: Path, adapter: Adapter) -> None:
    _refuse_halves(path, adapter)
    tensors: Tensors = {}
    folded = {}
    for module, layer in adapter.layers.items():
        factors = {DOWN: layer.down, UP: layer.up}
        if layer.alpha != layer.rank:
            folded[module] = layer.alpha
            factors[UP] = layer.up * (layer.alpha / layer.rank)
        if layer.magnitude is not None:
            # Peft has that of a convolution stand where its outputs do.
            shape = (1, -1, 1, 1) if layer.down.dim() == 4 else (-1,)
            factors[MAGNITUDE] = layer.magnitude.reshape(shape)
        tensors |= {layouts.diffusers_key(module, role): one for role, one in factors.items()}
    about = dict(adapter.about)
    if folded:
        same = len(folded) == len(adapter.layers) and len({*folded.values()}) == 1
        about[_FOLDED] = next(iter(folded.values())) if same else folded
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(about, sort_keys=True)})


def _refuse_halves(path: Path, adapter: Adapter) -> None:
    # Diffusers takes all layers of a part for DoRA's if one is.
    kinds = {
        (module.partition(".")[0], layer.magnitude is None)
        for module, layer in adapter.layers.items()
    }
    parts = [part for part, plain in kinds if plain]
    if mixed := sorted(part for part, plain in kinds if not plain and part in parts):
        raise AdapterError(
            f"{path}: only some layers of the {mixed[0]} are DoRA's, which diffusers' layout "
            "cannot say; kohya's can"
        )


def _write_kohya(path: Path, adapter: Adapter) -> None:
    sdxl = adapter.is_sdxl
    tensors: Tensors = {}
    for module, layer in adapter.layers.items():
        name = kohya.flatten(module, sdxl)
        if name is None:
            model = "SDXL" if sdxl else "SD 1 and 2"
            raise AdapterError(f"{path}: kohya's layout for {model} has no name for {module}")
        factors = {DOWN: layer.down, UP: layer.up, ALPHA: torch.tensor(layer.alpha)}
        if layer.magnitude is not None:
            factors[SCALE] = layer.magnitude.reshape(-1, *[1] * (layer.down.dim() - 1))
        tensors |= {layouts.kohya_key(name, role): one for role, one in factors.items()}
    about = json.dumps(adapter.about, sort_keys=True)
    write_tensors(path, tensors, {**_notes_for_kohya(adapter), METADATA_KEY: about})


def _notes_for_kohya(adapter: Adapter) -> dict[str, str]:
    """Return the metadata by which kohya's tools and the Web UIs know what a file is for."""
    from_text = ("attn2.to_k", "attn2.to_v", "self_attn.q_proj", "self_attn.v_proj")
    v2 = not adapter.is_sdxl and any(
        layer.down.shape[1] == _SD2_WIDTH
        for module, layer in adapter.layers.items()
        if module.endswith(from_text)
    )
    ranks = {str(layer.rank) for layer in adapter.layers.values()}
    alphas = {f"{layer.alpha:g}" for layer in adapter.layers.values()}
    noted = {key: adapter.about.get(name) for key, name in _NOTED_BY_KOHYA.items()}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
        "ss_base_model_version": "sdxl_base_v1-0" if adapter.is_sdxl else f"sd_v{1 + v2}",
        "ss_v2": str(v2),
        **{key: str(value) for key, value in noted.items() if value is not None},
    }
