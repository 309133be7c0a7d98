"""A command, and what it took: time to its first step, a step, the whole; memory."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

STANDINS = Path(__file__).parent / "standins"
WARMING = 3  # steps that are not counted: what is compiled or chosen then is not done again
FEWEST = WARMING + 3  # steps: between those that count there are two times
# Linux counts what the process that starts a program has held at most as the program's, too: so a
# small one starts it, and notes what it took.
BESIDE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


class Cost(NamedTuple):
    """What a run took."""

    first_step: float  # seconds from the command to the end of the first step
    step: float  # seconds between two steps: their median, and its quartiles
    quickly: float
    slowly: float
    seconds: float  # all in all
    process_mb: float  # of the largest process
    device_gb: float

    def shown(self, batch: int) -> str:
        """Return it in a line."""
        return (
            f"{batch / self.step:7.2f} samples/s ({batch / self.slowly:.2f} to "
            f"{batch / self.quickly:.2f}), first step after {self.first_step:.1f} s, "
            f"{self.seconds:.1f} s in all, {self.process_mb:.0f} MB"
            + (f", {self.device_gb:.1f} GB on the device" if self.device_gb else "")
        )


class Watched(NamedTuple):
    """A command that has ended well."""

    steps: list[float]  # seconds from the command to the end of each
    seconds: float
    process_mb: float
    device_gb: float


def run(command: Sequence[str], variables: Mapping[str, str] | None = None) -> Cost:
    """Run it, every optimizer step of it noted; leave with its last words if it fails."""
    seen = watch(command, variables)
    times = seen.steps
    return Cost(times[0], *_middle(times), seen.seconds, seen.process_mb, seen.device_gb)


def watch(command: Sequence[str], variables: Mapping[str, str] | None = None) -> Watched:
    """Run it to its end; leave with its last words if it fails."""
    with tempfile.NamedTemporaryFile("r") as notes, tempfile.NamedTemporaryFile("r") as kilobytes:
        paths = [str(STANDINS / "clock"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            **(variables or {}),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "BENCHMARK_CLOCK": notes.name,
        }
        beside = [sys.executable, "-I", "-S", "-c", BESIDE, kilobytes.name]
        begun = time.monotonic()
        done = subprocess.run(
            [*beside, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        seconds = time.monotonic() - begun
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout.decode()[-3000:]}")
        noted = [line.split() for line in notes]
        process_mb = int(kilobytes.read()) / 1024
    return Watched(
        [float(at) - begun for what, at, _ in noted if what == "step"],
        seconds,
        process_mb,
        max((int(taken) for *_, taken in noted), default=0) / 1e9,
    )


def _middle(times: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of what lies between two steps, and the quartiles around it."""
    pairs = zip(times[WARMING:], times[WARMING + 1 :], strict=False)
    quickly, middle, slowly = statistics.quantiles([after - before for before, after in pairs])
    return middle, quickly, slowly


def keep(file: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures, if a file is wanted."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=1) + "\n")


RATIOS: dict[str, Callable[[Any, Any], float | None]] = {
    "samples/s, ours over theirs": lambda ours, theirs: theirs.step / ours.step,
    "first step, theirs over ours": lambda ours, theirs: theirs.first_step / ours.first_step,
    "whole run, theirs over ours": lambda ours, theirs: theirs.seconds / ours.seconds,
    "process memory, ours over theirs": lambda ours, theirs: ours.process_mb / theirs.process_mb,
    "device memory, ours over theirs": lambda ours, theirs: (
        ours.device_gb / theirs.device_gb if theirs.device_gb else None
    ),
}


def ratios(
    ours: Sequence[Any],
    theirs: Sequence[Any],
    wanted: Mapping[str, Callable[[Any, Any], float | None]] = RATIOS,
) -> dict[str, list[float | None]]:
    """Return and print the ratios of each pair, and the median of each that all pairs have."""
    found = {
        name: [ratio(*pair) for pair in zip(ours, theirs, strict=True)]
        for name, ratio in wanted.items()
    }
    for what, each in found.items():
        there = [one for one in each if one is not None]
        if len(there) == len(each):
            shown = ", ".join(f"{one:.2f}" for one in there)
            print(f"{what}: {statistics.median(there):.2f} × ({shown})")
    return found
