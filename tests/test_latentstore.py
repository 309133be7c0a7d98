"""What lies on disk of earlier encodings, and that nothing there ends a run or falsifies it."""

import logging
import multiprocessing
import os
import pwd
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from detsd import latentstore
from detsd.latentstore import SEAL, SUFFIX, LatentStore, find_folder

PICTURES = [torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(6)]


class Encoder:
    """Something else of each picture, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += 1
        return pixels * 0.3, pixels.exp()


def recall(folder: Path, pixels: torch.Tensor, follows: str = "a VAE") -> int:
    """Return how often the encoder was asked; what comes must be what it makes."""
    encoder = Encoder()
    found = LatentStore(folder, follows).before(encoder)(pixels)
    assert all(torch.equal(one, two) for one, two in zip(found, Encoder()(pixels), strict=True))
    return encoder.asked


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_what_was_encoded_is_not_encoded_again(tmp_path):
    folder = tmp_path / "a" / "folder"
    assert [recall(folder, picture) for picture in (*PICTURES, *PICTURES)] == [1] * 6 + [0] * 6
    assert len(entries(folder)) == 6
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_entry_follows_from_the_pixels_their_shape_and_all_else(tmp_path):
    picture = PICTURES[0]
    assert recall(tmp_path, picture) == 1
    nudged = picture.clone()
    nudged[0, 2, 7, 7] += 1e-6
    for other in (nudged, picture.flip(-1), picture.reshape(1, 3, 4, 16)):
        assert recall(tmp_path, other) == 1
    assert recall(tmp_path, picture, "another VAE") == 1
    assert recall(tmp_path, picture) == 0


def test_what_is_damaged_or_foreign_is_passed_over_and_replaced(tmp_path):
    recall(tmp_path, PICTURES[0])
    (path,) = entries(tmp_path)
    content = path.read_bytes()
    recall(tmp_path / "other", PICTURES[1])
    other = entries(tmp_path / "other")[0].read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 1
    cut = [content[:length] for length in (0, 5, SEAL, 100, len(content) - 1)]
    for damaged in (*cut, content + b"\0", bytes(flipped), b"\0" * len(content), other):
        path.write_bytes(damaged)
        assert recall(tmp_path, PICTURES[0]) == 1
        assert path.read_bytes() == content
        assert recall(tmp_path, PICTURES[0]) == 0
    path.chmod(0)  # another user's
    assert recall(tmp_path, PICTURES[0]) == (1 if os.getuid() else 0)  # root may read it
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert recall(tmp_path, PICTURES[0]) == 1
    assert path.read_bytes() == content and not path.is_symlink()


NUMBERS = torch.zeros(2, 1, 3, 8, 8)
SEALED = {
    "no tensors": b"nothing of the kind",
    "another name": save({"other": NUMBERS}),
    "one alone": save({"latents": NUMBERS[:1]}),
    "integers": save({"latents": NUMBERS.long()}),
    "no numbers": save({"latents": NUMBERS * torch.nan}),
}


@pytest.mark.parametrize("kind", SEALED)
def test_what_was_sealed_by_another_and_is_no_latents_is_passed_over(tmp_path, kind):
    recall(tmp_path, PICTURES[0])
    (path,) = entries(tmp_path)
    content = path.read_bytes()
    path.write_bytes(latentstore._seal(path.stem, SEALED[kind]) + SEALED[kind])
    assert recall(tmp_path, PICTURES[0]) == 1
    assert path.read_bytes() == content


def test_what_is_no_number_is_not_kept(tmp_path):
    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pixels, pixels * torch.nan

    LatentStore(tmp_path / "new", "a VAE").before(encode)(PICTURES[0])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    recall(tmp_path, PICTURES[0])
    (path,) = entries(tmp_path)
    path.unlink()
    make(path)
    assert recall(tmp_path, PICTURES[0]) == 1


def test_where_nothing_can_be_written_a_line_says_so_and_all_is_encoded(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "file").write_text("here already")
    places = [tmp_path / "file", tmp_path / "file" / "below", Path("/proc"), Path("/proc/below")]
    for number, folder in enumerate(places, start=1):
        encoder = Encoder()
        remember = LatentStore(folder, "a VAE").before(encoder)
        for picture in PICTURES:
            remember(picture)
        assert encoder.asked == len(PICTURES)
        assert len(caplog.records) == number and str(folder) in caplog.messages[-1]
        LatentStore(folder, "a VAE").trim()
    assert (tmp_path / "file").read_text() == "here already"


def test_a_folder_that_may_only_be_read_is_read(tmp_path):
    folder = tmp_path / "folder"
    recall(folder, PICTURES[0])
    folder.chmod(0o500)
    assert recall(folder, PICTURES[0]) == 0
    folder.chmod(0o700)


def test_a_folder_that_vanishes_is_made_again(tmp_path):
    encoder = Encoder()
    remember = LatentStore(tmp_path / "folder", "a VAE").before(encoder)
    remember(PICTURES[0])
    (tmp_path / "folder").rename(tmp_path / "gone")
    remember(PICTURES[0])
    assert encoder.asked == 2
    assert len(entries(tmp_path / "folder")) == 1


def test_a_full_disk_leaves_nothing_half_written(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    recall(tmp_path, PICTURES[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        asked = recall(tmp_path, PICTURES[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert asked == 1
    assert len(entries(tmp_path)) == 1
    assert "takes no latents (" in caplog.text
    assert (recall(tmp_path, PICTURES[0]), recall(tmp_path, PICTURES[1])) == (0, 1)


def in_a_process(work: Any) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_what_a_killed_run_has_half_written_is_no_entry(tmp_path):
    def killed() -> None:
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        recall(tmp_path, PICTURES[0])

    process = in_a_process(killed)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (left,) = entries(tmp_path)
    assert left.name.startswith(".")
    assert recall(tmp_path, PICTURES[0]) == 1
    os.utime(left, (0, 0))
    LatentStore(tmp_path, "a VAE").trim()
    assert [path.name[0] == "." for path in entries(tmp_path)] == [False]
    assert recall(tmp_path, PICTURES[0]) == 0


def test_processes_that_write_and_trim_at_once_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(latentstore, "MOST", 4000)

    def work() -> None:
        for number in range(60):
            recall(tmp_path, PICTURES[number % 6])
            LatentStore(tmp_path, "a VAE").trim()

    processes = [in_a_process(work) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not [path for path in entries(tmp_path) if path.name.startswith(".")]
    for picture in PICTURES:
        recall(tmp_path, picture)


def test_the_folder_does_not_grow_for_ever(tmp_path, monkeypatch):
    for age, picture in enumerate(PICTURES):
        recall(tmp_path, picture)
        newest = max(entries(tmp_path), key=lambda path: path.stat().st_mtime)
        os.utime(newest, (time.time() - 1000 + age,) * 2)
    size = newest.stat().st_size
    (tmp_path / "notes.txt").write_text("not ours")
    assert recall(tmp_path, PICTURES[0]) == 0  # used, so no longer the oldest
    monkeypatch.setattr(latentstore, "MOST", 3 * size)
    LatentStore(tmp_path, "a VAE").trim()
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 3
    assert [recall(tmp_path, PICTURES[n]) for n in (0, 4, 5)] == [0, 0, 0]
    monkeypatch.setattr(latentstore, "LONGEST", -1)
    LatentStore(tmp_path, "a VAE").trim()
    assert [path.name for path in entries(tmp_path)] == ["notes.txt"]


def test_of_more_than_there_is_room_for_a_run_keeps_what_fits(tmp_path, monkeypatch):
    recall(tmp_path, PICTURES[0])
    monkeypatch.setattr(latentstore, "MOST", 4 * entries(tmp_path)[0].stat().st_size)
    for _ in range(2):  # the second run finds what the first has kept
        store = LatentStore(tmp_path, "a VAE")
        remember = store.before(Encoder())
        for picture in PICTURES:
            remember(picture)
        store.trim()
        assert len(entries(tmp_path)) == 4
    assert (store.found, store.made) == (4, 2)


def test_the_folder_is_the_one_asked_for_or_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder(None) == tmp_path / ".cache/detsd/latents"
    assert find_folder(Path("~/mine")) == tmp_path / "mine"
    assert find_folder("off") is None
    monkeypatch.delenv("HOME")

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)  # as of a container's random user
    assert find_folder(None) is None
