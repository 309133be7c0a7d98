"""What was learnt, and the file that it lies in: concepts and adapters, wherever they are named."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from detsd.adapters import SUFFIX, Adapter, AdapterError, read_adapter
from detsd.checkpoints import CheckpointError, find_checkpoint, read_export
from detsd.concepts import ADAPTER_FILE, EARLIER_FILE, Concept, is_second, read_concepts
from detsd.config import model_folder

# Of files in a folder. Pictures carry words, too, but most of them do not: those are to be named.
SUFFIXES = (SUFFIX, ".pt", ".bin")


class Learnt(NamedTuple):
    """A concept or an adapter: where it was said to be, and the file that it lies in."""

    source: Path
    file: Path
    what: Concept | Adapter


def read_learnt(
    source: str, name: str | None = None, skip: Callable[[ValueError], None] | None = None
) -> list[Learnt]:
    """Return what a file, a folder, a checkpoint's folder or its UUID holds, the adapter first.

    A concept is called `name`, if that is given. Without `skip`, which is told of files that
    cannot be read, the first of them ends it.
    """
    path = find_checkpoint(source)
    found: list[Learnt] = []
    for file in files_in(path):
        try:
            found += [Learnt(path, file, what) for what in _read_file(file, name)]
        except ValueError as error:
            if skip is None:
                raise
            skip(error)
    return found


def files_in(path: Path) -> list[Path]:
    """Return the files at a place in which something learnt may lie."""
    if not path.is_dir():
        return [path]
    if model := model_folder(path):
        # All but this file of ours is the model's own, whatever it is called.
        files = [model / EARLIER_FILE]
    else:
        folder = path / "export" if (path / "export").is_dir() else path
        files = [folder / ADAPTER_FILE, *(_words_in(folder) or [folder / EARLIER_FILE])]
    there = [file for file in files if file.is_file()]
    if not there:
        other = "a whole model, and no word beside it" if model else "no concept and no adapter"
        raise CheckpointError(f"{path}: holds {other}; a file of either, or its folder, is wanted")
    return there


def _words_in(folder: Path) -> list[Path]:
    """Return the files but for those that hold something else, or the same once more."""
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix in SUFFIXES
        and file.name not in (ADAPTER_FILE, EARLIER_FILE)
        and not file.name.startswith(".")
        and not is_second(file)
    ]


def _read_file(file: Path, name: str | None) -> list[Concept | Adapter]:
    if file.name == ADAPTER_FILE:
        return [read_adapter(file)]
    if name is None:
        export = read_export(file)
        return [*([export.adapter] if export.adapter else []), *export.concepts]
    with suppress(AdapterError):
        return [read_adapter(file)]
    # With its new name, since the one that it has may be none that is taken here.
    return [*read_concepts(file, name)]
