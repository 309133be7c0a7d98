"""The processes of a container. This file knows how to find and end them among this machine's."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.cluster.containers import Container

LAUNCHERS = {
    *("determined.exec.launch", "determined.launch.torch_distributed"),
    *("determined.exec.pid_server", "torch.distributed.run"),
}


def is_launched(container: Container) -> bool:
    """Return whether it was started with a launcher, and not by forks."""
    return isinstance(container.processes[0], subprocess.Popen)


def launchers(container: Container) -> list[int]:
    """Return the processes between the container's first one and the ranks."""
    found = _inside(container).items() if is_launched(container) else ()
    return sorted(pid for pid, words in found if LAUNCHERS & set(words[1:3]))


def ranks(container: Container) -> list[int]:
    """Return the processes that do the work, as far as they have been started."""
    if is_launched(container):
        found = _inside(container).items()
        return sorted(pid for pid, words in found if words[1:2] == ["-m"] and "detsd" in words[2])
    return [one.pid for one in container.processes if Path(f"/proc/{one.pid}").exists()]


def kill(pid: int) -> bool:
    """End a process as a crash would; return whether it had not ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def sweep(container: Container) -> None:
    """End what has outlived the container's first process, as the end of a container does."""
    container.kill()
    while left := _inside(container):
        for pid in left:
            kill(pid)
    container.remove()
    for name in ("workdir", "model"):
        shutil.rmtree(container.folder / name, ignore_errors=True)


def _inside(container: Container) -> dict[int, list[str]]:
    """Return the command lines of those that have inherited a launched container's variables."""
    mark = f"DET_CONTAINER_ID={container.id}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                found[int(folder.name)] = words
    return found
