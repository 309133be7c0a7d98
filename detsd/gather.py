"""All images of a grid in one place: out of its checkpoints, or of the trials of a search."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from detsd.fetch import fetch_checkpoint
from detsd.imagestore import HERE, IMAGES, INDEX, Record, read_records, write_index
from detsd.page import write_page
from detsd.storage import StorageError


def gather(source: str, folder: Path) -> Path:
    """Collect the images that a checkpoint (a UUID or a folder) lists; return their page."""
    path = Path(source)
    if path.is_dir():
        return _gather(path, path.name, lambda id: path.parent / id, folder)
    return _gather(fetch_checkpoint(source), source, fetch_checkpoint, folder)


def gather_trials(trials: Sequence[Path], folder: Path) -> Path:
    """List the images that lie in the trials' folders, below this one; return their page."""
    cells: dict[tuple[Path, int], int] = {}
    records = [
        {
            **record,
            "cell": cells.setdefault((trial, record["cell"]), len(cells)),
            "file": f"{trial.relative_to(folder)}/{record['file']}",
        }
        for trial in trials
        for record in read_records(trial / INDEX)
    ]
    return _list(records, folder)


def _gather(last: Path, name: str, find: Callable[[str], Path], folder: Path) -> Path:
    records = read_records(last / INDEX)
    if not records:
        raise StorageError(f"{last} is no checkpoint of a grid: it lists no images ({INDEX})")
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    for record in records:
        _fetch(find(record.get(HERE, name)), record, folder)
    return _list(records, folder)


def _list(records: Sequence[Record], folder: Path) -> Path:
    write_index(folder, records)
    return write_page(folder, folder.name)


def _fetch(checkpoint: Path, record: Record, folder: Path) -> None:
    source, target = checkpoint / record["file"], folder / record["file"]
    if target.is_file():
        return
    if not source.is_file():
        raise StorageError(f"{checkpoint} lacks {record['file']}, which the index says it holds")
    part = target.with_suffix(".part")
    shutil.copyfile(source, part)
    part.replace(target)
