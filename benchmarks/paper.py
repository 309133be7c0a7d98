"""What a run and a large grid would cost, on paper: python -m benchmarks.paper --gpus 1 8 64

Adds up parts, of which some were measured and the others are assumed; each is listed with what it
is from. --train, --generate and --keeping take the JSON that those benchmarks write (--train
several: the line through their steps says what a step costs before its first sample), and --part
NAME=VALUE states any part by itself. The formulas are in `run_cost` and `grid_cost`, and `limits`
says from where on which part is the one in the way.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

PATIENCE = 300.0  # seconds between a grid's checkpoints, as detsd.grid has it
BLOCK = 16  # images of a process between two looks at the others, likewise


@dataclass(frozen=True)
class Parts:
    """What a run and a grid consist of. Seconds and bytes, each of one thing."""

    start: float = 30 - 2000 / 135  # from the command to the first step or image
    step: float = 0.0  # a step before its first sample: launches, the loop
    sample: float = 1 / 135
    learnt: float = 25e3  # bytes that learn: eight vectors of SD 1.x
    latency: float = 50e-6  # of one exchange, for each of its hops
    link: float = 10e9  # bytes a second between two GPUs
    write: float = 0.05  # a checkpoint, to the disk
    checkpoint: float = 100e3  # its bytes
    upload: float = 100e6  # bytes a second, to S3 from one process
    image: float = 1 / 4.8
    png: float = 450e3  # bytes
    gather: float = 1e9  # bytes a second to the chief
    keep: float = 1e-3  # an image into the chief's store
    entry: float = 5e-6  # an image that is there already, at each checkpoint: index and page
    listing: float = 1e3  # bytes of it in both
    sheets: float = 250.0  # the sheets of the first 100 cells, of images of 512 pixels


# What it is to be on an H200: at least 135 samples/s, 2,000 of them within 30 s of the command, and
# 4.8 images/s.
GOALS = {"start", "sample", "image"}


@dataclass(frozen=True)
class Cost:
    """Of one run or grid."""

    gpus: int
    seconds: float
    starting: float  # the share of the time that is not work yet
    waiting: float  # the share in which GPUs wait for exchange, chief or disk

    @property
    def hours(self) -> float:
        """GPU-hours."""
        return self.gpus * self.seconds / 3600


def run_cost(parts: Parts, gpus: int, steps: int, batch: int, checkpoints: int) -> Cost:
    """Return what a run costs: the largest share of a step's samples, then the exchange."""
    share = math.ceil(batch / gpus)
    # Around a ring and back: each GPU sends twice all but its part of the gradients.
    hops = 2 * (gpus - 1)
    exchange = hops * (parts.latency + parts.learnt / gpus / parts.link)
    each = parts.step + share * parts.sample
    saving = checkpoints * (parts.write + parts.checkpoint / parts.upload)
    seconds = parts.start + steps * (each + exchange) + saving
    return Cost(gpus, seconds, parts.start / seconds, (steps * exchange + saving) / seconds)


def grid_cost(parts: Parts, gpus: int, images: int) -> Cost:
    """Return what a grid costs: rounds of a block a process, each gathered to the chief."""
    rounds = math.ceil(images / (BLOCK * gpus))
    drawing = BLOCK * parts.image
    # The chief keeps what all have drawn before it draws its next block; the others wait for it.
    keeping = BLOCK * gpus * (parts.png / parts.gather + parts.keep)
    working = rounds * (drawing + keeping)
    checkpoints = max(1, math.ceil(working / PATIENCE))
    listed = images_listed(images, checkpoints)
    saving = listed * (parts.entry + parts.listing / parts.upload)
    saving += images * parts.png / parts.upload + parts.sheets
    seconds = parts.start + working + saving
    return Cost(gpus, seconds, parts.start / seconds, (rounds * keeping + saving) / seconds)


def images_listed(images: int, checkpoints: int) -> float:
    """Return how often all checkpoints together list an image: each lists all that are there."""
    return images * (checkpoints + 1) / 2


def limits(parts: Parts, batch: int, images: int, steps: int) -> Iterator[tuple[str, float]]:
    """Yield what breaks, and the number of GPUs from which on, the first one first."""

    def mostly_starts(gpus: int) -> bool:
        return parts.start > steps * (parts.step + math.ceil(batch / gpus) * parts.sample)

    found = {
        f"a run of batch {batch}: more GPUs than samples in a step, the others idle": batch + 1.0,
        "a run: starting takes longer than all steps": _doubled_until(mostly_starts),
        "a grid: the chief's upload takes longer than the drawing": parts.image
        * parts.upload
        / parts.png,
        "a grid: the chief takes as long to gather and keep a block as to draw one": parts.image
        / (parts.png / parts.gather + parts.keep),
        "a grid: starting takes longer than the drawing": images * parts.image / parts.start,
        "a grid: the sheets take longer than the drawing": images * parts.image / parts.sheets,
    }
    yield from sorted(found.items(), key=lambda item: item[1])


def _doubled_until(breaks: Callable[[int], bool]) -> float:
    return next((2.0**power for power in range(12) if breaks(2**power)), math.inf)


def main() -> None:
    """Print the parts, the costs, and what breaks first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=4, help="the effective one")
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--train", type=Path, nargs="+", default=(), metavar="FILE")
    parser.add_argument("--generate", type=Path, metavar="FILE")
    parser.add_argument("--keeping", type=Path, metavar="FILE")
    parser.add_argument("--part", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    parts, sources = collect(given)
    print("| part | | from |\n|---|---|---|")
    for field in fields(parts):
        value = getattr(parts, field.name)
        assumed = "assumed: the goal" if field.name in GOALS else "assumed"
        print(f"| {field.name} | {value:.3g} | {sources.get(field.name, assumed)} |")
    print(
        f"\n| {given.steps} steps of {given.batch} | wall clock | GPU-hours | starting | waiting |"
    )
    print("|---|---|---|---|---|")
    for gpus in given.gpus:
        print(shown(run_cost(parts, gpus, given.steps, given.batch, given.checkpoints)))
    print(f"\n| {given.images:,} images | wall clock | GPU-hours | starting | waiting |")
    print("|---|---|---|---|---|")
    for gpus in given.gpus:
        print(shown(grid_cost(parts, gpus, given.images)))
    print()
    for gpus in given.gpus:
        # With save_freq: 1 a checkpoint follows every block.
        most = images_listed(given.images, math.ceil(given.images / (BLOCK * gpus)))
        size = most * parts.listing / 1e9
        print(f"- save_freq: 1 on {gpus} GPU{'s' * (gpus > 1)}: {size:,.1f} GB of lists")
    for what, gpus in limits(parts, given.batch, given.images, given.steps):
        print(f"- from {gpus:,.0f} GPU{'s' * (gpus > 1)} on, {what}")


def shown(cost: Cost) -> str:
    """Return a row of a table."""
    return (
        f"| {cost.gpus} GPU{'s' * (cost.gpus > 1)} | {cost.seconds:,.0f} s | "
        f"{cost.hours:.3g} | {cost.starting:.0%} | {cost.waiting:.0%} |"
    )


def collect(given: Any) -> tuple[Parts, dict[str, str]]:
    """Return the parts, and of those that are not assumed what they are from."""
    found: dict[str, tuple[float, str]] = {}
    for reader, files in ((of_training, given.train), (of_images, given.generate)):
        if files:
            found |= reader(files)
    if given.keeping:
        found |= of_keeping(given.keeping)
    for said in given.part:
        name, _, value = said.partition("=")
        if name not in {field.name for field in fields(Parts)}:
            known = ", ".join(field.name for field in fields(Parts))
            raise SystemExit(f"--part {said}: no such part; there are {known}")
        found[name] = (float(value), "stated")
    values = {name: value for name, (value, _) in found.items()}
    return replace(Parts(), **values), {name: source for name, (_, source) in found.items()}


def of_training(files: Sequence[Path]) -> dict[str, tuple[float, str]]:
    """Return what a step costs, by runs of one or of several effective batches."""
    points, starts = [], []
    for file in files:
        figures = json.loads(file.read_text())
        costs = figures["costs"]["ours"]
        step = statistics.median(cost["step"] for cost in costs)
        points.append((int(figures["asked"]["batch"]), step))
        starts.append(statistics.median(cost["first_step"] for cost in costs) - step)
        device = figures["device"]
    source = f"measured, {device}"
    if len({batch for batch, _ in points}) == 1:
        batch = points[0][0]
        step, sample = 0.0, statistics.median(step for _, step in points) / batch
    else:
        line = statistics.linear_regression(*zip(*points, strict=True))
        step, sample = line.intercept, line.slope
    found = {"start": statistics.median(starts), "step": max(0.0, step), "sample": sample}
    return {name: (value, source) for name, value in found.items()}


def of_images(file: Path) -> dict[str, tuple[float, str]]:
    """Return what an image costs."""
    figures = json.loads(file.read_text())
    rate = statistics.median(cost["rate"] for cost in figures["costs"]["ours"])
    return {"image": (1 / rate, f"measured, {figures['device']}")}


def of_keeping(file: Path) -> dict[str, tuple[float, str]]:
    """Return what an image costs that is there already."""
    figures = json.loads(file.read_text())["at"][-1]
    count, seconds = figures["images"], figures["seconds"]
    found = {
        "keep": seconds["add, all"] / count,
        "listing": (figures["bytes"]["index"] + figures["bytes"]["page"]) / count,
        # The page is written for the run's folder and for the checkpoint's.
        "entry": (
            2 * seconds["page"] + seconds["checkpoint, a round new"] + seconds["noted as saved"]
        )
        / count,
    }
    return {name: (value, "measured") for name, value in found.items()}


if __name__ == "__main__":
    main()
