"""A command that draws images, and what it took: time to the first, images a second, memory."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import clocked

WRITING = 0.2  # seconds: files that are closer were made together, and written one by one


class Drawn(NamedTuple):
    """What a run took."""

    first_image: float  # seconds from the command to its file
    rate: float | None  # images a second once it draws: the median, and its quartiles
    slowest: float | None
    quickest: float | None
    seconds: float  # all in all
    process_mb: float  # of the largest process
    device_gb: float

    def shown(self) -> str:
        """Return it in a line."""
        steady = "too few batches for a rate"
        if self.rate is not None:
            steady = f"{self.rate:.3g} images/s ({self.slowest:.3g} to {self.quickest:.3g})"
        return (
            f"{steady}, first image after {self.first_image:.1f} s, "
            f"{self.seconds:.1f} s in all, {self.process_mb:.0f} MB"
            + (f", {self.device_gb:.1f} GB on the device" if self.device_gb else "")
        )


RATIOS: dict[str, Callable[[Any, Any], float | None]] = {
    "images/s, ours over theirs": lambda ours, theirs: (
        ours.rate / theirs.rate if ours.rate and theirs.rate else None
    ),
    "first image, theirs over ours": lambda ours, theirs: theirs.first_image / ours.first_image,
    "whole run, theirs over ours": lambda ours, theirs: theirs.seconds / ours.seconds,
    "process memory, ours over theirs": lambda ours, theirs: ours.process_mb / theirs.process_mb,
    "device memory, ours over theirs": lambda ours, theirs: (
        ours.device_gb / theirs.device_gb if theirs.device_gb else None
    ),
}


def run(command: Sequence[str], folder: Path) -> Drawn:
    """Run it, whose images come into the folder; an image is there when its file was written."""
    begun = time.time()
    seen = clocked.watch(command)
    times = sorted(path.stat().st_mtime - begun for path in folder.glob("*.png"))
    if not times:
        sys.exit(f"{' '.join(command)} left no images in {folder}")
    slowest, rate, quickest = _quartiles(lots(times))
    return Drawn(times[0], rate, slowest, quickest, seen.seconds, seen.process_mb, seen.device_gb)


def lots(times: Sequence[float]) -> list[float]:
    """Return the images a second of each lot of files but the first and the last.

    Files come a batch at a time, perhaps in pieces, or each by itself: a lot ends where a pause is
    longer than half of that in which a moment lies on average. Before the first lot is the start,
    and with the last come files that had waited for others.
    """
    pauses = [after - before for before, after in pairwise(times)]
    typical = sum(pause * pause for pause in pauses) / max(sum(pauses), 1e-9)
    longest = max(WRITING, typical / 2)
    ends = [place for place, pause in enumerate(pauses) if pause > longest]
    return [(last - before) / (times[last] - times[before]) for before, last in pairwise(ends)]


def _quartiles(rates: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    if len(rates) < 2:
        middle = rates[0] if rates else None
        return middle, middle, middle
    slowest, middle, quickest = statistics.quantiles(rates)
    return slowest, middle, quickest
