"""The processes of a run on this machine: started together, given trials, stopped together."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from detsd.config import ConfigError
from detsd.cores import cores

# The processes of a launcher that was just killed need a moment to notice.
PATIENCE = 10.0
GRACE = 5.0
# Of glibc. Its own way, a tensor of a few MB is given back to the system, and page after page of
# the next one is asked for again: a third of the time that pictures take to encode on a CPU.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": 32 * 2**20, "MALLOC_TRIM_THRESHOLD_": 256 * 2**20}


class LockError(RuntimeError):
    """A run folder that another run is working in."""


class Launcher:
    """Starts processes, passes a request to stop on to them, and leaves none behind.

    Those that end a trial well wait for the next one, and need not be started for it.
    """

    def __init__(self, lock: IO[str], count: int, variables: Mapping[str, str]):
        self.stopping = False
        self._lock = lock
        self._count = count
        self._variables = variables
        self._processes: list[subprocess.Popen[str]] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def run(self, task: Mapping[str, Any], *, is_last: bool) -> int:
        """Have the processes do the task; return 0, or the exit code of one that failed."""
        waiting = False
        with tempfile.TemporaryDirectory() as folder:
            rendezvous = f"file://{folder}/rendezvous"
            line = json.dumps({**task, "rendezvous": rendezvous, "is_last": is_last})
            try:
                if self.stopping or not self._hand_out(line):
                    return 0
                code = self._wait([Path(folder) / f"done-{rank}" for rank in range(self._count)])
                waiting = not (code or is_last or self.stopping)
                return code
            finally:
                if not waiting:
                    self.close()

    def close(self) -> None:
        """End the processes that are left."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes = []

    def _hand_out(self, line: str) -> bool:
        """Give every process the line; return whether nobody asked to stop meanwhile."""
        if any(process.poll() is not None for process in self._processes):
            self.close()  # one has died as it waited
        for rank in range(self._count):
            if self.stopping:
                return False
            if rank == len(self._processes):
                self._processes.append(self._start(rank))
            pipe = self._processes[rank].stdin
            assert pipe is not None
            # It stays open: its end is how a process learns that the launcher is gone.
            with suppress(BrokenPipeError):  # the exit code says more
                pipe.write(f"{line}\n")
                pipe.flush()
        if self.stopping:  # asked for between the start of a process and its listing
            self._terminate()
        return True

    def _start(self, rank: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "detsd.rank"],
            stdin=subprocess.PIPE,
            text=True,
            env=environment(os.environ, self._variables, rank, self._count),
            process_group=0,  # a terminal's Ctrl-C comes here alone
            pass_fds=[self._lock.fileno()],  # the folder is taken until the last one has gone
        )

    def _wait(self, reports: Sequence[Path]) -> int:
        failed_at = None
        while None in (codes := [*map(_code, self._processes, reports)]):
            if any(codes):
                failed_at = failed_at or time.monotonic()
                if time.monotonic() > failed_at + GRACE:
                    break
            time.sleep(0.05)
        # A process that had nothing to save yet was simply ended.
        ended = -signal.SIGTERM if self.stopping else 0
        failures = [code for code in codes if code and code != ended]
        return next((code if code > 0 else 128 - code for code in failures), 0)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopping:
            for process in self._processes:
                process.kill()  # and no waiting: that could hold a lock that this has interrupted
            os._exit(128 + number)
        self.stopping = True
        print("\nsaving and leaving; once more to leave at once", file=sys.stderr, flush=True)
        self._terminate()

    def _terminate(self) -> None:
        for process in self._processes:
            process.terminate()


def _code(process: subprocess.Popen[str], report: Path) -> int | None:
    """Return what the process has come to, once it has ended the task or itself."""
    return 0 if report.exists() else process.poll()


def environment(
    outer: Mapping[str, str], variables: Mapping[str, str], rank: int, count: int
) -> dict[str, str]:
    """Return the variables of a process: ours, else the shell's, else the YAML's."""
    threads = max(1, cores() // count)
    ours = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
    defaults = {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    if sys.platform == "linux":
        defaults |= {"GLOO_SOCKET_IFNAME": "lo", **ALLOCATION}
    mine = {name: str(value) for name, value in ours.items()}
    return {**{k: str(v) for k, v in defaults.items()}, **variables, **outer, **mine}


@contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder for this run alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"--out {folder}: cannot be made ({error.strerror})"]) from None
    with (folder / ".lock").open("a+") as lock:
        _acquire(lock, folder)
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock


def _acquire(lock: IO[str], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read() or "unknown"
            if _is_alive(holder) or time.monotonic() > deadline:
                raise LockError(
                    f"{folder}: another run (process {holder}) is working there; wait for it, "
                    "stop it, or name another folder with --out"
                ) from None
            time.sleep(0.1)


def _is_alive(holder: str) -> bool:
    try:
        os.kill(int(holder), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
