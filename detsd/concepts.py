"""A concept, and the file formats that it is kept in."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from detsd.contents import Content, read_content, read_json
from detsd.embeddings import BUNDLE, NAMELESS, Embedding, embeddings_in
from detsd.formats import FORMATS, METADATA_KEY, Kind
from detsd.reason import reason
from detsd.tensorfile import replace_file

log = logging.getLogger(__name__)

EARLIER_FILE = "learned_embeddings_dict.pt"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # which lies beside concepts, and is none
SECOND_WIDTH = 1280  # of the vectors of SDXL's second text encoder


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
    """Return the concepts in a file of any layout, or in a checkpoint's folder; none of it is run.

    A file that holds one is called `name`; without that as it says itself, or as the file.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ConceptError(f"{path}: no such file")
    try:
        content = read_content(path, BUNDLE)
        about, found = _about(content), embeddings_in(content)
        if len(found) == 1:
            found = [_with_second_file(path, found[0])]
        elif name is not None:
            raise ValueError(f"holds {len(found)} concepts, which cannot all be called {name}")
        return [_concept(path, one, name, about) for one in found]
    except ValueError as error:  # ours and those of the modules below: each says what is wrong
        raise ConceptError(f"{path}: {error}") from None
    # A file with another shape than its layout's fails in as many ways as there are shapes.
    except Exception as error:
        raise ConceptError(f"{path}: is damaged, or no concept ({reason(error)})") from None


def write_concepts(folder: Path, concepts: Sequence[Concept]) -> None:
    """Write one safetensors file a concept, and all of them as the earlier example did."""
    files = {file_name(concept): encode_concepts([concept]) for concept in concepts}
    files[EARLIER_FILE] = encode_concepts(concepts, "determined")
    for name, data in files.items():
        replace_file(folder / name, data)


def encode_concepts(concepts: Sequence[Concept], layout: str = "diffusers") -> bytes:
    """Return the bytes of a file with the concepts, in one of `formats.FORMATS`."""
    for concept in concepts:
        if not is_a_file_name(concept.name):
            raise ConceptError(f"{concept.name!r} cannot be a concept's name: it names its file")
    words = [_embedding(concept) for concept in concepts]
    return FORMATS[layout].kind(words).encode(words)


def kind_of_file(concepts: Sequence[Concept], layout: str) -> Kind:
    """Return the kind of file in which that layout has the concepts."""
    return FORMATS[layout].kind([_embedding(concept) for concept in concepts])


def file_name(concept: Concept) -> str:
    """Return the name of the concept's own file."""
    return f"{concept.name}.safetensors"


def _embedding(concept: Concept) -> Embedding:
    return Embedding(concept.name, concept.vectors, concept.initializer, concept.about)


def bundled_concepts(path: Path) -> list[Concept]:
    """Return the concepts that lie in an adapter's file: most have none."""
    with safe_open(path, framework="pt") as file:
        bundled = any(key.startswith(BUNDLE) for key in file.keys())  # noqa: SIM118, no mapping
    return read_concepts(path) if bundled else []


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
    """Return the files with concepts in an export, or in any other folder.

    Of several kinds the first that is there: an export holds its concepts in two.
    """
    for pattern in ("*.safetensors", EARLIER_FILE, "*.pti", "*.pt", "*.bin"):
        files = [path for path in sorted(export.glob(pattern)) if path.name != ADAPTER_FILE]
        if files:
            return [path for path in files if not is_second(path)]
    return []


def is_second(path: Path) -> bool:
    """Return whether it has the second encoder's vectors of the file that it is called after."""
    first = path.with_name(f"{path.stem.removesuffix('_2')}{path.suffix}")
    return first != path and first.is_file() and _pair(first, path) is not None


def _about(content: Content) -> dict[str, Any]:
    """Return what we wrote of a concept, where it was us."""
    text = content.metadata.get(METADATA_KEY) or content.values.get(METADATA_KEY)
    return read_json(text) if isinstance(text, str) else {}


def _with_second_file(path: Path, one: Embedding) -> Embedding:
    """Return it with the vectors of SDXL's second encoder, which diffusers puts into X_2."""
    second = path.with_name(f"{path.stem}_2{path.suffix}")
    return (second.is_file() and _pair(path, second)) or one


def _pair(first: Path, second: Path) -> Embedding | None:
    """Return the one word of two files, if it is one: called the same, of two widths."""
    try:
        (one,), (other,) = (embeddings_in(read_content(path, BUNDLE)) for path in (first, second))
        vectors = {"clip_l": one.vectors["clip_l"], "clip_g": other.vectors["clip_l"]}
        (count, width), (other_count, other_width) = (rows.shape for rows in vectors.values())
    except (ValueError, KeyError, AttributeError):  # whatever they are, they are no such two
        return None
    if one.name in NAMELESS or (one.name, count) != (other.name, other_count):
        return None
    return one._replace(vectors=vectors) if width != other_width else None


def _concept(path: Path, one: Embedding, name: str | None, about: Mapping[str, Any]) -> Concept:
    own = about.get("name") or one.name
    name = name or (path.stem if own in NAMELESS else own)
    if not is_a_file_name(name):
        raise ValueError(f"{name!r} cannot be a concept's name: it names its file too")
    if one.left_out:
        left = ", ".join(one.left_out)
        log.warning("%s: left out is %s, which is added to what a text encoder returns", path, left)
    notes = {**one.about, **about}
    initializer = str(notes.pop("initializer", one.initializer))
    return Concept(name, _vectors(name, one.vectors), initializer, notes)


def _vectors(name: str, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return (vectors, width) in float32 for each encoder."""
    rows = {
        # Of one vector, files from before there were several have no first dimension.
        key: value[None] if isinstance(value, torch.Tensor) and value.dim() == 1 else value
        for key, value in given.items()
    }
    if not all(isinstance(value, torch.Tensor) for value in rows.values()):
        raise ValueError(f"tensors are wanted of {name}")
    shapes = {key: tuple(value.shape) for key, value in rows.items()}
    well_formed = all(len(shape) == 2 and all(shape) for shape in shapes.values())
    if not well_formed or len({shape[0] for shape in shapes.values()}) != 1:
        raise ValueError(f"(vectors, width) is wanted of {name}, found {shapes}")
    if "clip_l" not in rows or shapes["clip_l"][1] == SECOND_WIDTH:
        raise ValueError(
            f"has {name} for the second text encoder of Stable Diffusion XL alone; the file of the "
            "first is wanted, with this one beside it: learned.safetensors, learned_2.safetensors"
        )
    floats = {key: value.to(torch.float32, copy=True) for key, value in rows.items()}
    if not all(bool(value.isfinite().all()) for value in floats.values()):
        raise ValueError(f"has {name} with vectors that are no numbers, of a run that diverged")
    return floats


def is_a_file_name(name: object) -> bool:
    """Return whether a file of that name lies where it is put."""
    wrong = ("/", "\\", "\0")
    return isinstance(name, str) and name not in ("", ".", "..") and not set(wrong) & set(name)
