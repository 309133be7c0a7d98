"""A folder of files. This file knows which hold words, which adapters, and which the same again."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError

from detsd.config import model_folder
from detsd.contents import read_content
from detsd.embeddings import AN_ADAPTER, Embedding, embeddings_in, what_else
from detsd.names import ADAPTER_FILE, BUNDLE, EARLIER_FILE, NAMELESS
from detsd.pickled import DamagedError
from detsd.tensorfile import open_tensors

log = logging.getLogger(__name__)

# Pictures carry words, too, but most of them do not: those are to be named.
SUFFIXES = (".safetensors", ".pt", ".bin", ".pti", ".ckpt", ".pth")
_PICKLES = (".pt", ".bin", ".ckpt", ".pth")
OF_ONE_ENCODER = (768, 1024)  # of the vectors for SD 1 and SD 2
_AT_STEP = re.compile(r"-steps-(\d+)$")
_MANY = 10**18  # steps: what has no number is the last


class Files(NamedTuple):
    """The files in which something learnt lies; beside a whole model, it is its words alone."""

    adapters: list[Path]
    words: list[Path]
    model: Path | None = None


def files_in(folder: Path) -> Files:
    """Return the files of a folder, or of the export of a checkpoint's."""
    if model := model_folder(folder):
        # All but this file of ours is the model's own, whatever it is called.
        beside = model / EARLIER_FILE
        return Files([], [beside] if beside.is_file() else [], model)
    there = [path for path in sorted(export_of(folder).iterdir()) if _is_candidate(path)]
    kinds = {path: kind_of(path) for path in there}
    for path, kind in kinds.items():
        if kind not in ("", AN_ADAPTER):
            log.warning("%s: is left out, it holds %s", path, kind)
    plain = [path for path, kind in kinds.items() if not kind]
    earlier = [path for path in plain if path.name == EARLIER_FILE]
    words = [path for path in plain if path not in earlier and not _is_second(path)]
    adapters = [path for path, kind in kinds.items() if kind == AN_ADAPTER]
    # Ours has the words of the files beside it once more.
    return Files(adapters, _each_once(_told(words, adapters + earlier)) or earlier)


def export_of(folder: Path) -> Path:
    """Return where in a folder the files lie that are for others."""
    return folder / "export" if (folder / "export").is_dir() else folder


def kind_of(path: Path) -> str:
    """Return what a file holds, if that is no word: `AN_ADAPTER`, or a model's layers."""
    if path.name == ADAPTER_FILE:
        return AN_ADAPTER
    try:
        return what_else(*header_of(path))
    except ValueError:  # damaged notes: said when it is read
        return ""


def header_of(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the tensors' names and the metadata of a safetensors file; nothing of any other."""
    try:
        with open_tensors(path) as file:
            return sorted(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError):
        return [], {}


def with_second_file(path: Path, one: Embedding) -> Embedding:
    """Return it with the vectors of SDXL's second encoder, which diffusers puts into X_2."""
    second = path.with_name(re.sub(r"((-steps-\d+)?\.\w+)$", r"_2\1", path.name, count=1))
    return (second.is_file() and _pair(path, second)) or one


def _is_candidate(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _told(words: Sequence[Path], beside: Sequence[Path]) -> Sequence[Path]:
    """Return the files without the pickles that hold no word, where that leaves anything.

    Trainers keep much as pickles, above all how their optimizer stands.
    """
    told = [path for path in words if path.suffix.lower() not in _PICKLES or _may_tell(path)]
    if not (told or beside):
        return words  # what is wrong with them is said when they are read
    for path in words:
        if path not in told:
            log.warning("%s: is left out, no word can be read from it", path)
    return told


def _may_tell(pickle: Path) -> bool:
    """Return whether it has a word, or might have had one: that it is damaged is to be said."""
    try:
        return bool(embeddings_in(read_content(pickle, BUNDLE)))
    except DamagedError:
        return True
    except Exception:  # in as many ways as there are shapes
        return False


def _is_second(path: Path) -> bool:
    """Return whether it has the second encoder's vectors of the file that it is called after."""
    first = path.with_name(re.sub(r"_2((-steps-\d+)?\.\w+)$", r"\1", path.name))
    return first != path and first.is_file() and _pair(first, path) is not None


def _pair(first: Path, second: Path) -> Embedding | None:
    """Return the one word of two files, if it is one: called the same, of two widths."""
    try:
        (one,), (other,) = _words_of(first), _words_of(second)
        (first_rows,), (second_rows,) = one.vectors.values(), other.vectors.values()
        vectors = {"clip_l": first_rows, "clip_g": second_rows}
        (count, width), (other_count, other_width) = (
            torch.atleast_2d(rows).shape for rows in vectors.values()
        )
    except (ValueError, TypeError):  # whatever they are, they are no such two
        return None
    if one.name in NAMELESS or (one.name, count) != (other.name, other_count):
        return None
    return one._replace(vectors=vectors) if other_width not in (width, *OF_ONE_ENCODER) else None


def _each_once(files: Sequence[Path]) -> list[Path]:
    """Return the files but for those that have another's words at an earlier step, or once more."""
    alike: dict[str, list[Path]] = {}
    for path in files:
        alike.setdefault(_AT_STEP.sub("", path.stem), []).append(path)
    chosen: list[Path] = []
    for group in alike.values():
        last: dict[object, Path] = {}
        for path in sorted(group, key=_lateness):
            # What it is called does not tell: a word may be named as if it were a step.
            last[_names_in(path) if len(group) > 1 else path] = path
        chosen += last.values()
    return sorted(chosen)


def _lateness(path: Path) -> tuple[int, bool]:
    at_step = _AT_STEP.search(path.stem)
    return int(at_step[1]) if at_step else _MANY, path.suffix.lower() == SUFFIXES[0]


def _names_in(path: Path) -> object:
    """Return the names of the words in a file, by which it is known; its own where it has none."""
    names = {"" if one.name in NAMELESS else str(one.name) for one in _words_of(path)}
    return frozenset(names) or path


def _words_of(path: Path) -> list[Embedding]:
    """Return the words in a file; none of one that cannot be read, as is said when it is."""
    try:
        return embeddings_in(read_content(path, BUNDLE))
    except Exception:  # in as many ways as there are shapes
        return []
