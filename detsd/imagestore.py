"""The images of a run: a PNG each, and a line of the index. This file knows where they lie."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from detsd.storage import StorageError, write_whole

INDEX = "images.jsonl"
IMAGES = "images"
HERE = "kept_in"  # the checkpoint with the file; absent until there is one

Record = dict[str, Any]


class ImageStore:
    """A folder of images that grows; each is there whole and listed, or not at all.

    The index counts: a file that it does not list was cut off by a crash, and is made again.
    Where `whole`, each checkpoint holds all images, and not only those that no other one has.
    """

    def __init__(self, folder: Path, records: Iterable[Record], *, whole: bool = False):
        self.folder = folder
        self._whole = whole
        self._records = {record["id"]: record for record in records}
        self._unsaved = {id for id, record in self._records.items() if HERE not in record}
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        for part in (folder / IMAGES).glob("*.part"):
            part.unlink()  # a crash's
        self._write_index()

    @property
    def records(self) -> list[Record]:
        """All images, in the order in which they were made."""
        return list(self._records.values())

    @property
    def ids(self) -> set[str]:
        """Which images there are."""
        return set(self._records)

    @property
    def unsaved(self) -> list[Record]:
        """The images that no checkpoint has yet."""
        return [record for id, record in self._records.items() if id in self._unsaved]

    def add(self, record: Record, png: bytes) -> None:
        """Keep an image: first its file, then its line."""
        path = self.path(record)
        part = path.with_suffix(".part")
        part.write_bytes(png)
        part.replace(path)
        with (self.folder / INDEX).open("a", encoding="utf-8") as index:
            index.write(line(record))
        self._records[record["id"]] = record
        self._unsaved.add(record["id"])

    def arrange(self, cells: Mapping[str, int]) -> None:
        """Note the cells that images have now: the grid may have grown since they were made."""
        for id, cell in cells.items():
            if id in self._records:
                self._records[id]["cell"] = cell
        self._write_index()

    def path(self, record: Mapping[str, Any]) -> Path:
        """Return where the image's file lies, if it does."""
        return self.folder / record["file"]

    def write_checkpoint(self, part: Path) -> None:
        """Write what a checkpoint keeps: the images, and the whole index."""
        (part / IMAGES).mkdir()
        for record in self._next:
            _link(self.path(record), part / record["file"])
        listed = {**self._records, **{one["id"]: _unplaced(one) for one in self._next}}
        write_index(part, listed.values())

    def saved(self, checkpoint: str) -> None:
        """Note which checkpoint has the new images now."""
        for record in self._next:
            record[HERE] = checkpoint
        self._unsaved.clear()
        self._write_index()

    @property
    def _next(self) -> list[Record]:
        """The images that the next checkpoint holds."""
        return self.records if self._whole else self.unsaved

    def _write_index(self) -> None:
        write_index(self.folder, self._records.values())


def write_index(folder: Path, records: Iterable[Record]) -> None:
    """Write the folder's index."""
    write_whole(folder / INDEX, "".join(map(line, records)))


def read_records(index: Path) -> list[Record]:
    """Return the index's records, but for a last line that a crash has cut."""
    records = []
    # As bytes: a cut may lie within a letter.
    for number, text in enumerate(index.read_bytes().split(b"\n") if index.is_file() else ()):
        try:
            record = json.loads(text)
        except ValueError:
            continue
        if not _is_sound(record):
            raise StorageError(f"{index}, line {number + 1}: names no file in the index's folder")
        records.append(record)
    return records


def open_store(
    folder: Path, checkpoint: Path | None, name: str | None, *, whole: bool = False
) -> ImageStore:
    """Return the store of a run that may have begun: here, or as its checkpoint has it."""
    # Images that lie here and are no longer found were removed, and are to be made again.
    index = read_records(folder / INDEX)
    records = [one for one in index if (folder / one["file"]).is_file()]
    listed = {record["id"] for record in index}
    for record in read_records(checkpoint / INDEX) if checkpoint else ():
        if record["id"] in listed:
            continue
        if checkpoint and whole and (checkpoint / record["file"]).is_file():
            (folder / IMAGES).mkdir(parents=True, exist_ok=True)
            _link(checkpoint / record["file"], folder / record["file"])
        records.append({HERE: name, **record})
    return ImageStore(folder, records, whole=whole)


def line(record: Record) -> str:
    """Return the record as the index has it, in ASCII: some letters of others end a line."""
    return json.dumps(record, sort_keys=True) + "\n"


def _unplaced(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != HERE}


def _is_sound(record: Any) -> bool:
    """Return whether the files that it names can only lie where images do."""
    if not isinstance(record, dict) or not isinstance(record.get("file"), str):
        return False
    file, home = PurePosixPath(record["file"]), str(record.get(HERE, "none"))
    return not file.is_absolute() and ".." not in file.parts and home == Path(home).name != ".."


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(source, target)  # which takes no room; not every disk can
    except OSError:
        shutil.copy2(source, target)
