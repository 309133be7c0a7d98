"""What a checkpoint has for others: concepts, an adapter beside them or alone, or a whole model."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from torch import nn

from detsd.adapters import SUFFIX, Adapter, read_adapter
from detsd.concepts import Concept, bundled_concepts, read_concepts
from detsd.config import model_folder
from detsd.embeddings import AN_ADAPTER
from detsd.fetch import UUID, fetch_checkpoint
from detsd.folders import Files, export_of, files_in, kind_of
from detsd.names import ADAPTER_FILE, EARLIER_FILE

# Of a path's parts, those that do not say what lies there.
_EVERYWHERE = {"..", "runs", "checkpoints", "export", Path(ADAPTER_FILE).stem}
_OF_A_RUN = re.compile(r"(step|checkpoint)[-_]?\d+", re.IGNORECASE)


class CheckpointError(ValueError):
    """A checkpoint that holds something else than what is wanted of it."""


class Export(NamedTuple):
    """What was learnt, read; of a model its folder only."""

    concepts: tuple[Concept, ...] = ()
    adapter: Adapter | None = None
    model: Path | None = None


def find_checkpoint(source: str | Path) -> Path:
    """Return the file or folder of that name, or the Determined checkpoint's folder, fetched."""
    path = Path(source).expanduser()
    try:
        there = path.exists()
    except OSError:  # no disk takes so long a name
        there = False
    return path if there else fetch_checkpoint(str(source))


def read_export(source: str | Path, concepts_file: str = "") -> Export:
    """Return what a file or a checkpoint holds, concepts from `concepts_file` if that is there."""
    path = find_checkpoint(source)
    if path.is_file():
        return read_file(path)
    if model := model_folder(path):
        return Export(words_beside(str(model)), model=model)
    named = [place / concepts_file for place in (path, export_of(path)) if concepts_file]
    file = next((one for one in named if one.is_file()), None)
    files = files_in(path) if file else learnt_files(path)
    if len(files.adapters) > 1:
        names = ", ".join(one.name for one in files.adapters)
        raise CheckpointError(f"{path}: holds {names}; an adapter is wanted alone: name its file")
    adapter = read_adapter(files.adapters[0]) if files.adapters else None
    if file:
        return Export(tuple(read_concepts(file)), adapter)
    parts = [read_file(one) for one in (*files.adapters, *files.words)]
    return Export(tuple(word for part in parts for word in part.concepts), adapter)


def read_file(path: Path, name: str | None = None) -> Export:
    """Return what a file holds, known by what is in it; a concept is called `name`, if given."""
    if kind_of(path) == AN_ADAPTER:
        return Export(adapter=read_adapter(path), concepts=tuple(bundled_concepts(path, name)))
    return Export(tuple(read_concepts(path, name)))


def learnt_files(folder: Path) -> Files:
    """Return the files of a folder in which something learnt lies, or a whole model."""
    files = files_in(folder)
    if not any(files):
        raise CheckpointError(
            f"{folder}: holds no concept and no adapter; a file of either, or its folder, is wanted"
        )
    return files


def words_beside(model: str, named: Collection[str] = ()) -> tuple[Concept, ...]:
    """Return the concepts that were learnt together with a whole model, but for those `named`."""
    # The one file that says so: models from elsewhere have .safetensors of many kinds beside.
    file = Path(find_model(model)).expanduser() / EARLIER_FILE
    words = read_concepts(file) if file.is_file() else []
    return tuple(word for word in words if word.name not in named)


def find_model(name: str) -> str:
    """Return the folder of a model that is a checkpoint's; the name of any other as it is."""
    path = Path(name)
    if UUID.fullmatch(name) and not path.exists():
        path = fetch_checkpoint(name)
        if not model_folder(path):
            raise CheckpointError(
                f"checkpoint {name} holds no whole model: name the one that it was trained on, and "
                "this as its adapter or concept"
            )
    return str(model_folder(path) or name)


def name_of(source: str | Path) -> str:
    """Return what a person calls it: a file's stem, a run and its step, the start of a UUID."""
    path = Path(source).expanduser().absolute()
    parts = [*path.parts[1:-1], path.name.removesuffix(SUFFIX)]
    told = [part for part in parts if part not in _EVERYWHERE] or parts
    name = told[-1]
    if UUID.fullmatch(name):
        name = name.partition("-")[0]
    elif _OF_A_RUN.fullmatch(name):
        name = "-".join(told[-2:])
    # A module keeps its adapters by name, and torch refuses dots there, and names of its own.
    name = name.replace(".", "-")
    return f"{name}-adapter" if hasattr(nn.ModuleDict, name) else name


def distinct(name: str, taken: Collection[str]) -> str:
    """Return the name, or the first of it with a number behind that is not taken."""
    number, one = 1, name
    while one in taken:
        number += 1
        one = f"{name}-{number}"
    return one
