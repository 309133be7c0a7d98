"""What was learnt, and the file that it lies in: concepts and adapters, wherever they are named."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from detsd.adapters import Adapter
from detsd.checkpoints import CheckpointError, find_checkpoint, learnt_files, read_file
from detsd.concepts import Concept


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
    for file in _files_at(path):
        try:
            export = read_file(file, name)
        except ValueError as error:
            if skip is None:
                raise
            skip(error)
        else:
            found += [Learnt(path, file, one) for one in (export.adapter, *export.concepts) if one]
    return found


def _files_at(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = learnt_files(path)
    if files.model and not files.words:
        raise CheckpointError(
            f"{path}: holds a whole model, and no word beside it; a file of either, or its folder, "
            "is wanted"
        )
    return [*files.adapters, *files.words]
