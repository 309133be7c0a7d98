"""What an agent has started. This file knows how a container ends, and what it finds around it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.cluster.nodes import Node
from tests.cluster.ports import free_ports
from tests.cluster.records import Allocation

PATCHES = Path(__file__).parent / "container"
PATIENCE = 400  # seconds for an attempt, which may meet an outage or two, and a busy machine
GRACE = 3  # seconds from a process's failure to the end of the others: as the launcher's


class Container:
    """An attempt of a trial that has been started, or what there is of it on one node."""

    def __init__(
        self, allocation: Allocation, folder: Path, rank: int = 0, node: Node | None = None
    ):
        self.allocation = allocation
        self.rank = rank
        self.node = node
        self.folder = folder / self.id
        for name in ("info", "workdir", "model"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "log").touch()  # who is killed as it starts has said nothing
        self.scratch = Path(
            tempfile.mkdtemp(prefix="det-")
        )  # short: sockets have it in their names
        self.processes: list[Any] = []

    @property
    def id(self) -> str:
        """Its name among those of all attempts."""
        return f"{self.allocation.id}.{self.rank}"

    @property
    def slots(self) -> int:
        """How many of the attempt's slots are here."""
        return self.allocation.slots // len(self.allocation.addresses)

    @property
    def command(self) -> list[str]:
        """What makes a command one of its node's, if it has one to itself."""
        return self.node.command if self.node else []

    @property
    def log(self) -> str:
        """All that its processes have said."""
        return (self.folder / "log").read_text()

    def wait(self) -> int:
        """Return its exit code, when it has one."""
        deadline = time.monotonic() + PATIENCE
        while None in (codes := [_code(process) for process in self.processes]):
            failed = any(codes)
            if failed or time.monotonic() > deadline:
                time.sleep(GRACE)  # for the others to fail of themselves
                self.kill()
            time.sleep(0.02)
        return next((code for code in codes if code), 0)

    def kill(self) -> None:
        """End all of its processes at once, as an agent does when time is up."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                if isinstance(process, subprocess.Popen):
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()

    def remove(self) -> None:
        """End what runs, and remove what lies outside its folder."""
        if None in map(_code, self.processes):
            self.kill()
        # A container's own /tmp goes with it; these names cannot be moved out of this machine's.
        id = self.allocation.id
        for folder in (self.scratch, f"/tmp/tensorboard-{id}-0"):
            shutil.rmtree(folder, ignore_errors=True)
        Path(f"/tmp/pid_server-{id}").unlink(missing_ok=True)


def surroundings(folder: Path) -> dict[str, str]:
    """Return what a process finds that has nothing to do with this machine's user."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PATCHES),
        "CONTAINER_FOLDER": str(folder),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "LC_ALL": "C.UTF-8",
    }


def apart(container: Container) -> dict[str, str]:
    """Return what keeps a container away from the others of this machine, unless its node does."""
    if container.node:
        return {}
    c10d, first, second = free_ports(3)
    return {
        "GLOO_SOCKET_IFNAME": "lo",
        "TMPDIR": str(container.scratch),
        "C10D_PORT": str(c10d),
        "INTER_TRAIN_PROCESS_COMM_PORT_1": str(first),
        "INTER_TRAIN_PROCESS_COMM_PORT_2": str(second),
    }


def _code(process: Any) -> int | None:
    return process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
