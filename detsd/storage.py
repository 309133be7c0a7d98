"""Where the checkpoints of a run without a cluster lie: each there whole, or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from detsd.reason import reason

METADATA = "metadata.json"
NAMES = ("type", "bucket", "container", "container_path", "host_path", "prefix", "endpoint_url")


class StorageError(ValueError):
    """A storage that cannot be reached, written or read."""


class Stored(NamedTuple):
    """A checkpoint in a storage."""

    id: str
    metadata: dict[str, Any]


class Storage(Protocol):
    """A place for the checkpoints of one trial."""

    def put(self, name: str, part: Path) -> str:
        """Take the finished folder `part` in as one checkpoint, and return its id."""

    def list(self) -> list[Stored]:
        """Return the trial's checkpoints, fewest steps first."""

    def open(self, id: str) -> Any:
        """Return a context of a folder with the checkpoint's files."""

    def delete(self, id: str) -> None:
        """Remove a checkpoint."""

    def scratch(self) -> Any:
        """Return a context of an empty folder, for `put`."""

    def where(self, id: str) -> str:
        """Return where a person finds the checkpoint."""

    def check(self) -> None:
        """Refuse a place that cannot be written, before hours of work depend on it."""


class FolderStorage:
    """Checkpoints as folders of one folder, which may hold other trials' too."""

    def __init__(self, root: Path, trial_id: str, prefix: str = ""):
        self._root = root.expanduser()
        self._trial_id = trial_id
        self._prefix = prefix
        self._part = f".part-{trial_id}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot hold checkpoints ({error.strerror})"
            raise StorageError(f"{self._root} {problem}") from error
        # What a killed run left half-written; a run has its folder to itself.
        for left in self._root.glob(f"{self._part}*"):
            shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a hidden folder beside the checkpoints, so that a rename makes it one."""
        part = self._root / self._part
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def put(self, name: str, part: Path) -> str:
        """Rename the folder, its bytes on disk, to its final name."""
        for path in sorted(part.rglob("*")):
            flush(path)
        final = self._root / f"{self._prefix}{name}"
        if final.exists():
            self.delete(final.name)
        part.replace(final)
        flush(self._root)
        return final.name

    def list(self) -> list[Stored]:
        """Read the metadata of every checkpoint here, and keep this trial's."""
        found = [
            Stored(path.parent.name, read_metadata(path))
            for path in self._root.glob(f"*/{METADATA}")
            if not path.parent.name.startswith(".")
        ]
        own = [stored for stored in found if stored.metadata.get("trial_id") == self._trial_id]
        return sorted(own, key=lambda stored: stored.metadata["steps_completed"])

    @contextmanager
    def open(self, id: str) -> Iterator[Path]:
        """Yield the checkpoint's own folder."""
        if not (self._root / id).is_dir():
            raise StorageError(f"no checkpoint {id} in {self._root}")
        yield self._root / id

    def delete(self, id: str) -> None:
        """Hide the folder, then remove it: nothing half-removed is ever listed."""
        doomed = self._root / f"{self._part}-{id}"
        (self._root / id).replace(doomed)
        shutil.rmtree(doomed)

    def where(self, id: str) -> str:
        """Return the folder's path."""
        return str(self._root / id)

    def check(self) -> None:
        """Make a hidden folder and remove it."""
        try:
            with self.scratch():
                pass
        except OSError as error:
            problem = f"cannot hold checkpoints ({error.strerror})"
            raise StorageError(f"{self._root} {problem}") from error


class RemoteStorage:
    """Checkpoints behind one of Determined's storage managers, with a list of them kept here."""

    def __init__(self, manager: Any, index: Path, prefix: str, place: str):
        self._manager = manager
        self._index = index
        self._prefix = prefix
        self._place = place

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a temporary folder."""
        with tempfile.TemporaryDirectory() as part:
            yield Path(part)

    def put(self, name: str, part: Path) -> str:
        """Upload the folder; it counts from when the list names it."""
        id = f"{self._prefix}{name}"
        with named("written to", self._place):
            self._manager.upload(part, id)
        metadata = json.loads((part / METADATA).read_text())
        others = [stored for stored in self.list() if stored.id != id]
        self._write_list([*others, Stored(id, metadata)])
        return id

    def list(self) -> list[Stored]:
        """Return what the list names."""
        if not self._index.is_file():
            return []
        found = [Stored(*entry) for entry in json.loads(self._index.read_text())]
        return sorted(found, key=lambda stored: stored.metadata["steps_completed"])

    @contextmanager
    def open(self, id: str) -> Iterator[Path]:
        """Download the checkpoint."""
        with tempfile.TemporaryDirectory() as folder:
            with named("read from", self._place):
                self._manager.download(id, folder)
            yield Path(folder)

    def delete(self, id: str) -> None:
        """Remove the checkpoint there, and then from the list."""
        with named("deleted from", self._place):
            self._manager.delete(id, ["**/*"])
        self._write_list([stored for stored in self.list() if stored.id != id])

    def check(self) -> None:
        """Write a small file and remove it."""
        with self.scratch() as part, named("written to", self._place):
            (part / "check.txt").write_text("detsd")
            self._manager.upload(part, f"{self._prefix}check")
            self._manager.delete(f"{self._prefix}check", ["**/*"])

    def where(self, id: str) -> str:
        """Return the storage and the id in it."""
        return f"{id} in {self._place}"

    def _write_list(self, entries: Sequence[Stored]) -> None:
        write_whole(self._index, json.dumps(entries, indent=2))


def open_storage(
    place: Mapping[str, Any], folder: Path, trial_id: str, build_manager: Any
) -> Storage:
    """Return the storage that a YAML's `checkpoint_storage` names; the run's folder if none."""
    kind = place.get("type")
    if kind is None:
        return FolderStorage(folder / "checkpoints", trial_id)
    if kind == "directory":
        return FolderStorage(Path(place["container_path"]), trial_id, f"{trial_id}-")
    if kind == "shared_fs":
        root = Path(place["host_path"]) / place.get("storage_path", "")
        return FolderStorage(root, trial_id, f"{trial_id}-")
    with named("kept in", name_place(place)):
        manager = build_manager(dict(place))
    return RemoteStorage(manager, folder / "checkpoints.json", f"{trial_id}-", name_place(place))


def name_place(place: Mapping[str, Any]) -> str:
    """Return which storage a YAML's `checkpoint_storage` names, and nothing of its secrets."""
    return " ".join(str(place[key]) for key in NAMES if place.get(key))


@contextmanager
def named(deed: str, place: str, apart: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Let what fails in here, errors `apart`, say which storage it is that has failed."""
    try:
        yield
    except apart:
        raise
    # Each kind of storage fails in its own way; the place is what the user has to know.
    except Exception as error:
        raise StorageError(f"checkpoints cannot be {deed} {place}: {reason(error)}") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what is kept beside a checkpoint's files."""
    # What strangers keep in a shared folder may be anything; ours was written whole.
    try:
        metadata = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def write_whole(path: Path, text: str) -> None:
    """Write the file so that a crash leaves the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    flush(part)
    part.replace(path)


def flush(path: Path) -> None:
    """Let the file, or the folder's list of names, be on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
