"""A concept, and the file formats that it is kept in."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detsd.contents import read_content
from detsd.embeddings import METADATA_KEY as METADATA_KEY
from detsd.embeddings import Embedding, checked_vectors, embeddings_in
from detsd.folders import SUFFIXES, files_in, header_of, with_second_file
from detsd.formats import FORMATS, Kind
from detsd.names import ADAPTER_FILE as ADAPTER_FILE
from detsd.names import BUNDLE, EARLIER_FILE, NAMELESS, why_not
from detsd.reason import one_line, reason
from detsd.tensorfile import replace_file

log = logging.getLogger(__name__)


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

    One that lies alone is called `name`; without that as its file says, or as the file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read_folder(path, name)
        if not path.is_file():
            raise ValueError("no such file")
        return _read_file(path, name)
    except ConceptError:
        raise
    except OSError as error:
        said = f"cannot be read: {error.strerror}"
    except ValueError as error:  # ours and those of the modules below: each says what is wrong
        said = str(error)
    # A file with another shape than its layout's fails in as many ways as there are shapes.
    except Exception as error:
        said = f"is damaged, or no concept ({reason(error)})"
    raise ConceptError(f"{path}: {one_line(said)}")


def _read_file(path: Path, name: str | None) -> list[Concept]:
    found = embeddings_in(read_content(path, BUNDLE))
    if len(found) == 1:
        return [_concept(path, with_second_file(path, found[0]), name)]
    return [_concept(path, one, None) for one in found]


def write_concepts(folder: Path, concepts: Sequence[Concept]) -> None:
    """Write one safetensors file a concept, and all of them as the earlier example did."""
    files = {file_name(concept): encode_concepts([concept]) for concept in concepts}
    files[EARLIER_FILE] = encode_concepts(concepts, "determined")
    for name, data in files.items():
        replace_file(folder / name, data)


def encode_concepts(concepts: Sequence[Concept], layout: str = "diffusers") -> bytes:
    """Return the bytes of a file with the concepts, in one of `formats.FORMATS`."""
    for concept in concepts:
        if why := why_not(concept.name):
            raise ConceptError(f"{concept.name!r} cannot be a concept's name: {why}")
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


def bundled_concepts(path: Path, name: str | None = None) -> list[Concept]:
    """Return the concepts that lie in an adapter's file: some have other models'."""
    keys, _ = header_of(path)
    try:
        return read_concepts(path, name) if any(key.startswith(BUNDLE) for key in keys) else []
    except ConceptError as error:
        log.warning("the words in an adapter are left out: %s", error)
        return []


def _read_folder(folder: Path, name: str | None) -> list[Concept]:
    files = files_in(folder)
    lone = name if len(files.words or files.adapters) == 1 else None
    bundle_name = None if files.words else lone
    bundled = [one for path in files.adapters for one in bundled_concepts(path, bundle_name)]
    lone = None if bundled else lone
    found = bundled + [one for path in files.words for one in read_concepts(path, lone)]
    if not found:
        known = f" ({', '.join(SUFFIXES)})"
        other = ", but an adapter" if files.adapters else ", but a whole model"
        what = other if files.adapters or files.model else known
        raise ConceptError(f"{folder}: holds no concept{what}")
    return found


def _concept(path: Path, one: Embedding, name: str | None) -> Concept:
    nameless = one.name in NAMELESS
    name = name or (path.stem if nameless else one.name)
    if why := why_not(name):
        first = "rename the file, or " if nameless else ""
        raise ValueError(
            f"{name!r} cannot be a concept's name: {why}; {first}convert it with --name"
        )
    if one.left_out:
        log.warning("%s: left out is %s", path, one.left_out)
    vectors = checked_vectors(name, one.vectors)
    return Concept(name, vectors, one.initializer, dict(one.about))
