"""A concept, and the file formats that it is kept in."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from detsd.contents import Content, read_content, read_json
from detsd.embeddings import Embedding, checked_vectors, embeddings_in
from detsd.formats import FORMATS, METADATA_KEY, Kind
from detsd.names import ADAPTER_FILE, BUNDLE, EARLIER_FILE, NAMELESS, why_not
from detsd.reason import one_line, reason
from detsd.tensorfile import replace_file

log = logging.getLogger(__name__)

OF_ONE_ENCODER = (768, 1024)  # of the vectors for SD 1 and SD 2
_AT_STEP = re.compile(r"-steps-(\d+)$")
MANY = 10**18  # steps: what has no number is the last


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
    content = read_content(path, BUNDLE)
    about, found = _about(content), embeddings_in(content)
    if len(found) == 1:
        found = [_with_second_file(path, found[0])]
    else:
        name = None
    return [_concept(path, one, name, about) for one in found]


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


def bundled_concepts(path: Path) -> list[Concept]:
    """Return the concepts that lie in an adapter's file: some have other models'."""
    with safe_open(path, framework="pt") as file:
        bundled = any(key.startswith(BUNDLE) for key in file.keys())  # noqa: SIM118, no mapping
    try:
        return read_concepts(path) if bundled else []
    except ConceptError as error:
        log.warning("the words in an adapter are left out: %s", error)
        return []


def _read_folder(folder: Path, name: str | None) -> list[Concept]:
    export = folder / "export" if (folder / "export").is_dir() else folder
    files = concept_files(export)
    if not files:
        other = {"an adapter": ADAPTER_FILE, "a whole model": "unet"}
        there = [f", but {what}" for what, name in other.items() if (export / name).exists()]
        found = there[0] if there else f" (*.safetensors or {EARLIER_FILE})"
        raise ConceptError(f"{folder}: holds no concept{found}")
    name = name if len(files) == 1 else None
    return [concept for path in files for concept in read_concepts(path, name)]


def concept_files(export: Path) -> list[Path]:
    """Return the files with concepts in an export, or in any other folder.

    Of several kinds the first that is there: an export holds its concepts in two.
    """
    for pattern in ("*.pti", "*.safetensors", EARLIER_FILE, "*.pt", "*.bin"):
        files = [path for path in sorted(export.glob(pattern)) if path.name != ADAPTER_FILE]
        if files:
            return [path for path in _latest(files) if not is_second(path)]
    return []


def _latest(files: Sequence[Path]) -> list[Path]:
    """Return the files but for those of earlier steps, as diffusers keeps them beside the last."""
    last: dict[str, tuple[int, Path]] = {}
    for path in files:
        at_step = _AT_STEP.search(path.stem)
        step = int(at_step[1]) if at_step else MANY
        stem = _AT_STEP.sub("", path.stem)
        last[stem] = max(last.get(stem, (0, path)), (step, path))
    return sorted(path for _, path in last.values())


def is_second(path: Path) -> bool:
    """Return whether it has the second encoder's vectors of the file that it is called after."""
    first = path.with_name(re.sub(r"_2((-steps-\d+)?\.\w+)$", r"\1", path.name))
    return first != path and first.is_file() and _pair(first, path) is not None


def _about(content: Content) -> dict[str, Any]:
    """Return what we wrote of a concept, where it was us."""
    text = content.metadata.get(METADATA_KEY) or content.values.get(METADATA_KEY)
    return read_json(text) if isinstance(text, str) else {}


def _with_second_file(path: Path, one: Embedding) -> Embedding:
    """Return it with the vectors of SDXL's second encoder, which diffusers puts into X_2."""
    second = path.with_name(re.sub(r"((-steps-\d+)?\.\w+)$", r"_2\1", path.name, count=1))
    return (second.is_file() and _pair(path, second)) or one


def _pair(first: Path, second: Path) -> Embedding | None:
    """Return the one word of two files, if it is one: called the same, of two widths."""
    try:
        (one,), (other,) = (embeddings_in(read_content(path, BUNDLE)) for path in (first, second))
        vectors = {"clip_l": one.vectors["clip_l"], "clip_g": other.vectors["clip_l"]}
        (count, width), (other_count, other_width) = (
            torch.atleast_2d(rows).shape for rows in vectors.values()
        )
    except (ValueError, KeyError, TypeError):  # whatever they are, they are no such two
        return None
    if one.name in NAMELESS or (one.name, count) != (other.name, other_count):
        return None
    return one._replace(vectors=vectors) if other_width not in (width, *OF_ONE_ENCODER) else None


def _concept(path: Path, one: Embedding, name: str | None, about: Mapping[str, Any]) -> Concept:
    own = about.get("name") or one.name
    nameless = own in NAMELESS
    name = name or (path.stem if nameless else own)
    if why := why_not(name):
        first = "rename the file, or " if nameless else ""
        raise ValueError(
            f"{name!r} cannot be a concept's name: {why}; {first}convert it with --name"
        )
    if one.left_out:
        log.warning("%s: left out is %s", path, one.left_out)
    notes = {**one.about, **about}
    initializer = str(notes.pop("initializer", one.initializer))
    return Concept(name, checked_vectors(name, one.vectors), initializer, notes)
