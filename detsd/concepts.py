"""A concept, and the file formats that it is kept in."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from detsd.contents import Content, read_content, read_json
from detsd.embeddings import BUNDLE, NAMELESS, Embedding, embeddings_in
from detsd.reason import reason

log = logging.getLogger(__name__)

EARLIER_FILE = "learned_embeddings_dict.pt"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # which lies beside concepts, and is none
METADATA_KEY = "detsd"
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
            return [path for path in files if not _is_second(path)]
    return []


def _is_second(path: Path) -> bool:
    """Return whether it has the second encoder's vectors of the file that it is called after."""
    first = path.with_name(f"{path.stem.removesuffix('_2')}{path.suffix}")
    if first == path or not first.is_file():
        return False
    try:
        return _pair(_embeddings(first), _embeddings(path)) is not None
    except ValueError:  # which reading them will say
        return False


def _about(content: Content) -> dict[str, Any]:
    """Return what we wrote of a concept, where it was us."""
    text = content.metadata.get(METADATA_KEY) or content.values.get(METADATA_KEY)
    return read_json(text) if isinstance(text, str) else {}


def _with_second_file(path: Path, one: Embedding) -> Embedding:
    """Return it with the vectors of SDXL's second encoder, which diffusers puts into X_2."""
    second = path.with_name(f"{path.stem}_2{path.suffix}")
    return (second.is_file() and _pair([one], _embeddings(second))) or one


def _embeddings(path: Path) -> list[Embedding]:
    return embeddings_in(read_content(path, BUNDLE))


def _pair(first: Sequence[Embedding], second: Sequence[Embedding]) -> Embedding | None:
    """Return the one word of two files, if it is one: called the same, of two widths."""
    if len(first) != 1 or len(second) != 1 or first[0].name != second[0].name:
        return None
    rows, others = first[0].vectors, second[0].vectors
    if not set(rows) == set(others) == {"clip_l"}:
        return None
    shapes = [tuple(one["clip_l"].shape) for one in (rows, others)]
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][1] == shapes[1][1]:
        return None  # another concept
    return first[0]._replace(vectors={"clip_l": rows["clip_l"], "clip_g": others["clip_l"]})


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
