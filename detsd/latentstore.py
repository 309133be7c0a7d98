"""Latents on disk: what a VAE has made of a picture, for the next run that shows it the same."""

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from detsd.data import Encode
from detsd.reason import reason

log = logging.getLogger(__name__)

CACHE = Path(".cache") / "detsd" / "latents"  # below the home folder
SUFFIX = ".latents"
SEAL = 16  # bytes
LARGEST = 1 << 26  # bytes of an entry: 9 million of the largest picture that is taken
MOST = 2 << 30  # bytes of all of them: 16,000 pictures of 512 pixels
LONGEST = 30 * 24 * 3600  # seconds that one lies there unused


class _Entry(NamedTuple):
    used: float  # when
    size: int
    path: Path


class LatentStore:
    """Entries by what they follow from: these pixels, and all else that an encoding follows from.

    Nothing that is wrong with its folder, or broken in it, ends a run or changes what comes of it.
    Whoever may write there can put others in their place, as with the pictures themselves.
    """

    def __init__(self, folder: Path, follows: str):
        self.folder = folder
        self.found = 0
        self.made = 0
        self._follows = follows
        self._used = 0  # bytes
        self._takes = True

    def before(self, encode: Encode) -> Encode:
        """Return an encoder of single pictures that asks `encode` for what is not here."""

        def recall(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            key = self._key(pixels)
            latents = self._read(key)
            if latents is None:
                self.made += 1
                latents = torch.stack(encode(pixels)).cpu().contiguous()
                self._write(key, latents)
            else:
                self.found += 1
            mean, std = latents
            return mean, std

        return recall

    def trim(self) -> None:
        """Remove what has long not been used, and of the rest the oldest that is too much."""
        total, oldest = 0, time.time() - LONGEST
        for entry in sorted(self._entries(), reverse=True):
            total += entry.size
            if total > MOST or entry.used < oldest:
                with suppress(OSError):
                    entry.path.unlink()

    def _entries(self) -> Iterator[_Entry]:
        # Half-written ones of killed runs, too: they age like the others.
        with suppress(OSError):
            for path in self.folder.glob(f"*{SUFFIX}"):
                with suppress(OSError):
                    status = path.stat()
                    yield _Entry(status.st_mtime, status.st_size, path)

    def _key(self, pixels: torch.Tensor) -> str:
        # By pixels and not by the file: whatever has read, cropped, resized and mirrored it, in
        # whichever version, what comes of it is told. That costs little beside the VAE.
        digest = hashlib.blake2b(f"{self._follows} {tuple(pixels.shape)}".encode(), digest_size=16)
        digest.update(pixels.flatten().numpy().data)
        return digest.hexdigest()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _read(self, key: str) -> torch.Tensor | None:
        path = self._path(key)
        try:
            if not path.is_file():  # a pipe would be waited for
                return None
            with path.open("rb") as file:
                content = file.read(LARGEST)
        except OSError:
            return None
        if content[:SEAL] != _seal(key, content[SEAL:]):
            return None
        with suppress(OSError):
            os.utime(path)
        self._used += len(content)
        try:
            latents = load(content[SEAL:])["latents"]
        except (SafetensorError, KeyError):  # sealed by somebody else
            return None
        return latents if _is_pair(latents) else None

    def _write(self, key: str, latents: torch.Tensor) -> None:
        if not self._takes or not _is_pair(latents):
            return
        content = save({"latents": latents})
        self._used += SEAL + len(content)
        if self._used > MOST:  # a run's own would push each other out
            self._takes = False
            return
        try:
            # From latents the picture can be drawn again: nobody else's business.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self.folder / f".{key}-{uuid4().hex}{SUFFIX}"
            try:
                # Not flushed: what a crash of the machine leaves of it, its seal tells.
                part.write_bytes(_seal(key, content) + content)
                part.replace(self._path(key))
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            self._takes = False
            log.info("%s takes no latents (%s): the next run encodes", self.folder, reason(error))


def _is_pair(latents: torch.Tensor) -> bool:
    """Return whether it can be what a VAE made of a picture: a mean and a std of numbers."""
    shaped = latents.dim() == 5 and latents.shape[:2] == (2, 1)
    return shaped and latents.dtype == torch.float32 and bool(latents.isfinite().all())


def _seal(key: str, content: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + content, digest_size=SEAL).digest()


def find_folder(wanted: Path | str | None) -> Path | None:
    """Return the folder that a config asks for; None is for no folder."""
    if wanted == "off":
        return None
    if wanted:
        return Path(wanted).expanduser()
    try:
        return Path.home() / CACHE
    except RuntimeError:  # a user without a home, as in some containers
        return None
