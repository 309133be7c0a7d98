"""Checkpoints are there whole or not at all, in a folder or behind a storage manager."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from determined.common import storage as determined_storage

from detsd.storage import FolderStorage, RemoteStorage, StorageError, open_storage, write_whole
from tests.conftest import ROOT


def save(storage: Any, steps: int, trial: str = "one", text: str = "x") -> str:
    with storage.scratch() as part:
        (part / "export").mkdir()
        (part / "export" / "concept.txt").write_text(text)
        metadata = {"trial_id": trial, "steps_completed": steps}
        (part / "metadata.json").write_text(json.dumps(metadata))
        return storage.put(f"step-{steps}", part)


def steps(storage: Any) -> list[int]:
    return [stored.metadata["steps_completed"] for stored in storage.list()]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture
def folder(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "deep" / "checkpoints", "one", "one-")


@pytest.fixture
def remote(tmp_path: Path) -> Callable[[str], RemoteStorage]:
    def build(kind: str) -> RemoteStorage:
        (tmp_path / "place").mkdir(exist_ok=True)
        key = {"directory": "container_path", "shared_fs": "host_path"}[kind]
        place = {"type": kind, key: str(tmp_path / "place")}
        manager = determined_storage.build(place, str(tmp_path / "place"))
        return RemoteStorage(manager, tmp_path / "list.json", "one-", f"{kind} place")

    return build


@pytest.fixture(params=["folder", "directory", "shared_fs"])
def storage(request: pytest.FixtureRequest, folder: FolderStorage, remote: Any) -> Any:
    """A storage of each kind."""
    return folder if request.param == "folder" else remote(request.param)


def test_what_is_put_can_be_opened(storage: Any) -> None:
    id = save(storage, 5, text="learnt")
    assert id == "one-step-5"
    with storage.open(id) as found:
        assert (found / "export" / "concept.txt").read_text() == "learnt"
        assert json.loads((found / "metadata.json").read_text())["steps_completed"] == 5
    assert id in storage.where(id)


def test_checkpoints_come_by_their_steps(storage: Any) -> None:
    for number in (20, 3, 100):
        save(storage, number)
    assert steps(storage) == [3, 20, 100]


def test_a_checkpoint_put_again_is_the_new_one(storage: Any) -> None:
    save(storage, 5, text="old")
    id = save(storage, 5, text="new")
    assert steps(storage) == [5]
    with storage.open(id) as found:
        assert (found / "export" / "concept.txt").read_text() == "new"


def test_a_deleted_checkpoint_is_gone(storage: Any) -> None:
    first, second = save(storage, 5), save(storage, 6)
    storage.delete(first)
    assert steps(storage) == [6]
    with pytest.raises(StorageError), storage.open(first):
        pass
    with storage.open(second) as found:
        assert (found / "export" / "concept.txt").is_file()


def test_an_exception_while_writing_leaves_nothing(storage: Any, tmp_path: Path) -> None:
    kept = save(storage, 5)
    with pytest.raises(KeyboardInterrupt), storage.scratch() as part:
        (part / "metadata.json").write_text('{"trial_id": "one", "steps_completed": 6}')
        raise KeyboardInterrupt
    assert [stored.id for stored in storage.list()] == [kept]
    assert not part.exists()
    save(storage, 6)
    assert steps(storage) == [5, 6]


def test_what_a_killed_run_left_is_neither_listed_nor_kept(folder: FolderStorage) -> None:
    id = save(folder, 5)
    root = Path(folder.where(id)).parent
    with folder.scratch() as part:
        left = shutil.copytree(root / id, root / "left")
        part.rmdir()
        left.rename(part)  # as if the process had ended here
        assert steps(folder) == [5]
        assert visible(root) == [id]
        again = FolderStorage(root, "one", "one-")
        assert not part.exists()
    assert steps(again) == [5]


def test_other_trials_checkpoints_are_left_alone(folder: FolderStorage) -> None:
    mine = save(folder, 5)
    root = Path(folder.where(mine)).parent
    other = FolderStorage(root, "two", "two-")
    with folder.scratch() as part:
        assert save(other, 7, trial="two") == "two-step-7"
        assert FolderStorage(root, "two", "two-").list() == other.list()
        assert part.is_dir()
    assert (steps(folder), steps(other)) == ([5], [7])


@pytest.mark.parametrize("text", ["", '{"trial_id": "o', "[]", "{}", '{"steps_completed": 3}'])
def test_a_strangers_metadata_is_passed_over(folder: FolderStorage, text: str) -> None:
    stranger = Path(folder.where("0b7a"))
    stranger.mkdir()
    (stranger / "metadata.json").write_text(text)
    save(folder, 5)
    assert steps(folder) == [5]


def die_after_one_file(path: Path, **_: Any) -> None:
    next(file for file in sorted(Path(path).rglob("*.txt"))).unlink()
    raise KeyboardInterrupt


def test_a_kill_while_deleting_leaves_no_half(
    folder: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = save(folder, 5)
    monkeypatch.setattr("detsd.storage.shutil.rmtree", die_after_one_file)
    with pytest.raises(KeyboardInterrupt):
        folder.delete(id)
    monkeypatch.undo()
    for stored in folder.list():
        with folder.open(stored.id) as found:
            assert (found / "export" / "concept.txt").is_file()


@pytest.mark.parametrize("kind", ["folder", "directory"])
def test_a_checkpoint_that_is_not_there_is_named(kind: str, folder: Any, remote: Any) -> None:
    storage = folder if kind == "folder" else remote(kind)
    with pytest.raises(StorageError, match="no-such|directory place"), storage.open("no-such"):
        pass


class Unreachable:
    """A manager whose storage is down."""

    def upload(self, *_: Any) -> None:
        raise ConnectionError("no route\nto host")

    download = delete = upload


def test_a_failing_manager_is_a_storage_error_that_names_the_place(tmp_path: Path) -> None:
    storage = RemoteStorage(Unreachable(), tmp_path / "list.json", "one-", "s3 bucket")
    with pytest.raises(StorageError, match="written to s3 bucket: no route$"):
        save(storage, 5)
    with pytest.raises(StorageError, match="read from s3 bucket"), storage.open("x"):
        pass
    with pytest.raises(StorageError, match="deleted from s3 bucket"):
        storage.delete("x")
    assert storage.list() == []


def test_a_manager_that_cannot_be_built_is_a_storage_error(tmp_path: Path) -> None:
    def build(_: dict[str, Any]) -> None:
        raise RuntimeError("no credentials")

    place = {"type": "s3", "bucket": "models", "secret_key": "hush"}
    with pytest.raises(StorageError, match="kept in s3 models: no cred") as caught:
        open_storage(place, tmp_path, "one", build)
    assert "hush" not in str(caught.value)


def test_the_yaml_says_where_checkpoints_go(tmp_path: Path) -> None:
    places = {
        "run/checkpoints/step-5": {},
        "c/one-step-5": {"type": "directory", "container_path": str(tmp_path / "c")},
        "h/s/one-step-5": {
            "type": "shared_fs",
            "host_path": str(tmp_path / "h"),
            "storage_path": "s",
        },
    }
    for wanted, place in places.items():
        save(open_storage(place, tmp_path / "run", "one", None), 5)
        assert (tmp_path / wanted / "metadata.json").is_file()


def test_a_place_that_cannot_be_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = {"type": "directory", "container_path": str(tmp_path / "file")}
    with pytest.raises(StorageError, match="file"):
        open_storage(place, tmp_path, "one", None)


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "old")
    write_whole(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.json", "half \ud800")
    assert (tmp_path / "a.json").read_text() == "new"


def test_a_file_is_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    code = "import pathlib, sys; from detsd.storage import write_whole; "
    code += "write_whole(pathlib.Path(sys.argv[1]), chr(233))"
    path = tmp_path / "a.txt"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, path], env=plain, check=True, timeout=60)
    assert path.read_text("utf-8") == "é"
