"""Determined checkpoints by their UUID, each downloaded once and kept on this machine."""

import fcntl
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from detsd.concepts import ConceptError
from detsd.reason import reason

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
CACHE = Path(".cache") / "detsd" / "checkpoints"  # below the home folder


def fetch_checkpoint(uuid: str) -> Path:
    """Return the checkpoint's folder, downloaded when it is first asked for."""
    if not UUID.fullmatch(uuid):
        raise ConceptError(f"{uuid}: no such file or folder, nor the UUID of a checkpoint")
    folder = Path.home() / CACHE / uuid
    if folder.is_dir():
        return folder
    try:
        _download(uuid, folder)
    # No such checkpoint, no login, no master, no storage: each has its own kind of error.
    except Exception as error:
        master = os.environ.get("DET_MASTER", "http://localhost:8080")
        raise ConceptError(
            f"no file or folder is called {uuid}, and as a checkpoint it could not be fetched from "
            f"the Determined master {master}: {reason(error)}"
        ) from error
    return folder


def _download(uuid: str, folder: Path) -> None:
    from determined.experimental import client  # most pipelines never need it

    folder.parent.mkdir(parents=True, exist_ok=True)
    # A trial's processes want it at the same time, and a whole model is gigabytes.
    with (folder.parent / f".{uuid}.lock").open("w") as lock:
        with suppress(OSError):  # not every disk can lock; each downloads its own then
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            whole = Path(part) / uuid
            client.get_checkpoint(uuid).download(str(whole))
            # What only its own run goes on from is most of a large one.
            shutil.rmtree(whole / "resume", ignore_errors=True)
            try:
                whole.replace(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
