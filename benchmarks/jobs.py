"""Commands that are worked off one after another, each within its time. This file knows how one
that fails or hangs costs nothing but itself."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

JSON = "{json}"  # in a command: the file that its figures are wanted in
GRACE = 5.0  # seconds that a command has to leave in, once it is asked to
LEAST = 10.0  # with less time than that nothing is begun


class Job(NamedTuple):
    """A command, what it is called, and how long it may take."""

    name: str
    command: Sequence[str]
    seconds: float


class Result(NamedTuple):
    """What became of a job."""

    name: str
    outcome: str  # done, or why it is not
    seconds: float
    command: str
    figures: Any = None


def work_through(
    jobs: Sequence[Job],
    log: Path,
    seconds: float,
    variables: Mapping[str, str],
    note: Callable[[Sequence[Result]], None],
) -> list[Result]:
    """Do the jobs in their order while there is time; `note` sees what there is after each."""
    deadline = time.monotonic() + seconds
    results: list[Result] = []
    for job in jobs:
        left = deadline - time.monotonic()
        if left < LEAST:
            results.append(Result(job.name, "not begun: no time was left", 0.0, _said(job)))
        else:
            results.append(_do(job, min(left, job.seconds), log, variables))
        print(f"{results[-1].name}: {results[-1].outcome}", flush=True)
        note(results)
    return results


def _do(job: Job, seconds: float, log: Path, variables: Mapping[str, str]) -> Result:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, log.open("a") as output:
        figures = Path(scratch) / "figures.json"
        command = [word.replace(JSON, str(figures)) for word in job.command]
        output.write(f"\n$ {_said(job)}\n")
        output.flush()
        outcome = _run(command, seconds, output, {**variables, "TMPDIR": scratch})
        found = _read(figures)
        if outcome == "done" and found is None and any(JSON in word for word in job.command):
            outcome = "done, but it left no figures"
    return Result(job.name, outcome, time.monotonic() - begun, _said(job), found)


def _run(command: Sequence[str], seconds: float, output: Any, variables: Mapping[str, str]) -> str:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            start_new_session=True,  # so that what it has started is ended with it
        )
    except OSError as error:
        return f"could not be started: {error}"
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    finally:
        _end(process)
    return "done" if code == 0 else f"failed ({code}): the log says why"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it has started: politely first, if it still runs."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _read(figures: Path) -> Any:
    try:
        return json.loads(figures.read_text())
    except (OSError, ValueError):
        return None


def _said(job: Job) -> str:
    return " ".join("python" if word == sys.executable else word for word in job.command)
