"""A concept, and the file formats that it is kept in."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detsd.reason import reason

EARLIER_FILE = "learned_embeddings_dict.pt"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # which lies beside concepts, and is none
METADATA_KEY = "detsd"
# Names of a tensor that say which text encoder it is for, and not what the concept is called.
ENCODERS = ("clip_l", "clip_g")


class ConceptError(ValueError):
    """A concept file that cannot be used, or a concept that a model cannot take."""


@dataclass(frozen=True)
class Concept:
    """A word and its vectors, (num_vectors, width) for each text encoder by its name.

    `clip_l` is the first encoder of any family, `clip_g` SDXL's second.
    """

    name: str
    vectors: dict[str, torch.Tensor]
    initializer: str = ""
    about: dict[str, Any] = field(default_factory=dict)  # steps, base model, version

    @property
    def num_vectors(self) -> int:
        """How many tokens of a prompt the concept takes."""
        return len(next(iter(self.vectors.values())))


def read_concepts(path: Path, name: str | None = None) -> list[Concept]:
    """Return the concepts in a file, or in a checkpoint folder; nothing in it is executed."""
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ConceptError(f"{path}: no such file")
    with path.open("rb") as file:
        pickled = file.read(2) in (b"PK", b"\x80\x02")
    return _read_earlier(path) if pickled else [_read_safetensors(path, name)]


def write_concepts(folder: Path, concepts: Sequence[Concept]) -> None:
    """Write one safetensors file a concept, and all of them as the earlier example did."""
    folder.mkdir(parents=True, exist_ok=True)
    for concept in concepts:
        # Several metadata keys would come out in another order in every process: one key it is.
        about = {
            "name": concept.name,
            "initializer": concept.initializer,
            "num_vectors": concept.num_vectors,
            **concept.about,
        }
        if not is_a_file_name(concept.name):
            raise ConceptError(f"{concept.name!r} cannot be a concept's name: it names its file")
        metadata = {METADATA_KEY: json.dumps(about, sort_keys=True)}
        # As bytes: safetensors itself writes files that only their owner may read.
        (folder / file_name(concept)).write_bytes(save(_tensors(concept), metadata))
    _write_earlier(folder / EARLIER_FILE, concepts)


def file_name(concept: Concept) -> str:
    """Return the name of the concept's own file."""
    return f"{concept.name}.safetensors"


def _tensors(concept: Concept) -> dict[str, torch.Tensor]:
    vectors = {key: value.contiguous() for key, value in concept.vectors.items()}
    # Diffusers takes the key of a single tensor for the token, of two for the encoder.
    return vectors if len(vectors) > 1 else {concept.name: next(iter(vectors.values()))}


def _write_earlier(path: Path, concepts: Sequence[Concept]) -> None:
    entries = {
        concept.name: {
            "initializer_strs": concept.initializer,
            "learned_embeddings": (
                dict(concept.vectors) if len(concept.vectors) > 1 else concept.vectors["clip_l"]
            ),
        }
        for concept in concepts
    }
    torch.save(entries, path)


def _read_folder(folder: Path) -> list[Concept]:
    export = folder / "export" if (folder / "export").is_dir() else folder
    files = concept_files(export)
    if not files:
        other = {"an adapter": ADAPTER_FILE, "a whole model": "unet"}
        there = [f", but {what}" for what, name in other.items() if (export / name).exists()]
        found = there[0] if there else f" (*.safetensors or {EARLIER_FILE})"
        raise ConceptError(f"{folder}: holds no concept{found}")
    return [concept for path in files for concept in read_concepts(path)]


def concept_files(export: Path) -> list[Path]:
    """Return the files with concepts in an export, or in any other folder."""
    files = [path for path in sorted(export.glob("*.safetensors")) if path.name != ADAPTER_FILE]
    return files or sorted(export.glob(EARLIER_FILE))


def _read_safetensors(path: Path, name: str | None) -> Concept:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ConceptError(f"{path}: is no safetensors file, or a damaged one ({error})") from None
    if not isinstance(about, dict):
        raise ConceptError(f"{path}: its metadata is damaged, found {about!r} for {METADATA_KEY}")
    own = about.get("name")
    if tensors and set(tensors) <= set(ENCODERS):
        called, vectors = own or path.stem, tensors
    elif len(tensors) == 1:
        token, tensor = tensors.popitem()
        called, vectors = own or token, {"clip_l": tensor}
    elif any(".lora" in key for key in tensors):
        raise ConceptError(f"{path}: holds no concept, but an adapter")
    else:
        raise ConceptError(
            f"{path}: one tensor, or clip_l and clip_g, are wanted; found {[*tensors][:5]}"
        )
    return _checked(path, name or called, vectors, about.pop("initializer", ""), about)


def _read_earlier(path: Path) -> list[Concept]:
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
        return [
            _checked(
                path, name, _by_encoder(entry["learned_embeddings"]), entry["initializer_strs"], {}
            )
            for name, entry in entries.items()
        ]
    except ConceptError:
        raise
    # A damaged archive, a pickle that is refused, a dictionary of another shape: all one answer.
    except Exception as error:
        raise ConceptError(f"{path}: is not what {EARLIER_FILE} holds ({reason(error)})") from None


def _by_encoder(value: Any) -> dict[str, torch.Tensor]:
    return dict(value) if isinstance(value, dict) else {"clip_l": value}


def _checked(
    path: Path, name: str, vectors: dict[str, torch.Tensor], initializer: str, about: dict[str, Any]
) -> Concept:
    if not is_a_file_name(name):
        raise ConceptError(f"{path}: {name!r} cannot be a concept's name: it names its file too")
    shapes = {key: tuple(value.shape) for key, value in vectors.items()}
    well_formed = all(len(shape) == 2 and all(shape) for shape in shapes.values())
    if not well_formed or len({shape[0] for shape in shapes.values()}) != 1:
        raise ConceptError(f"{path}: (vectors, width) is wanted of {name}, found {shapes}")
    floats = {key: value.to(torch.float32, copy=True) for key, value in vectors.items()}
    return Concept(name, floats, initializer, about)


def is_a_file_name(name: object) -> bool:
    """Return whether a file of that name lies where it is put."""
    wrong = ("/", "\\", "\0")
    return isinstance(name, str) and name not in ("", ".", "..") and not set(wrong) & set(name)
