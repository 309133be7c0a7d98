"""One run on more and more processes: python -m benchmarks.scaling --processes 1 2 4 --size demo

The same word is learnt from the same samples each time, and each process computes with one thread.
Says how far the learnt vectors and the losses are apart, and what a step's time goes to: the share
outside forward and backward is for batches, for the gradients' exchange (and waiting for others in
it), for the optimizer, and for the rest, which is the loop itself and what it reports.

Where there are fewer cores than processes, those wait for each other: then it shows the result to
be the same, and nothing of how fast it would be.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from benchmarks import clocked, models
from benchmarks.train import invert
from detsd.cores import cores

PARTS = ("forward", "backward", "batches", "exchange", "optimizer")
REPORT_EVERY = 10


class Found(NamedTuple):
    """What a run came to."""

    processes: int
    samples_a_second: float
    step: float  # seconds, the chief's median
    shares: dict[str, float]  # of a step's time, over all processes
    outside: float  # of forward and backward
    vectors: dict[str, torch.Tensor]
    losses: dict[str, list[float]]  # training's and validation's, as reported


def main() -> None:
    """Print a row for each number of processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--size", choices=models.NAMES, default="demo", help="of the model")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8, help="the effective one")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="to write the figures to, too")
    given = parser.parse_args()
    if given.steps < clocked.FEWEST:
        parser.error(f"--steps: {clocked.FEWEST} at least are wanted, found {given.steps}")
    with tempfile.TemporaryDirectory() as scratch:
        rows = compare(given, Path(scratch))
    if given.json:
        asked = {"size": given.size, "steps": given.steps, "batch": given.batch}
        asked["precision"] = given.precision
        figures = {"asked": asked, **place(), "runs": rows}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def place() -> dict[str, Any]:
    """Return what it ran on."""
    on_gpu = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "devices": torch.cuda.device_count() if on_gpu else cores(),
    }


def compare(given: Any, scratch: Path) -> list[dict[str, Any]]:
    """Run it with each number of processes; return the figures, each beside the first one's."""
    given.model = models.folder_of(given.size, scratch)
    given.pixels, given.compile = models.pixels_of(given.size), "off"
    given.every = given.steps
    rows: list[dict[str, Any]] = []
    first: Found | None = None
    for count in given.processes:
        found = measure(given, count, scratch)
        first = first or found
        rows.append(beside(found, first))
        print(shown(rows[-1]), flush=True)
    return rows


def measure(given: Any, count: int, scratch: Path) -> Found:
    """Run it with so many processes."""
    folder, notes = scratch / f"on-{count}", scratch / f"on-{count}.jsonl"
    # Of options that are there twice the last one counts.
    command = [*invert(given, folder), "--processes", str(count)]
    command += ["--set", f"training.metric_report_freq={REPORT_EVERY}"]
    run(command, notes)
    shares, step = read_shares([json.loads(line) for line in notes.read_text().splitlines()])
    checkpoint = sorted((folder / "checkpoints").glob("step-*"))[-1]
    return Found(
        processes=count,
        samples_a_second=given.batch / step,
        step=step,
        shares=shares,
        outside=1 - shares["forward"] - shares["backward"],
        vectors=load_file(checkpoint / "export" / "det-logo.safetensors"),
        losses=read_losses(folder / "metrics.jsonl"),
    )


def run(command: Sequence[str], notes: Path) -> None:
    """Run it, the parts of each step of it noted; leave with its last words if it fails."""
    paths = [str(clocked.STANDINS / "parts"), os.environ.get("PYTHONPATH", "")]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "BENCHMARK_PARTS": str(notes),
    }
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def read_shares(notes: Sequence[dict[str, Any]]) -> tuple[dict[str, float], float]:
    """Return what all processes' steps went to, and the chief's median of a step."""
    times: list[float] = []
    spent = dict.fromkeys(PARTS, 0.0)
    whole = 0.0
    for rank in {note["rank"] for note in notes}:
        own = [note for note in notes if note["rank"] == rank][clocked.WARMING :]
        for before, after in pairwise(own):
            whole += after["at"] - before["at"]
            for part in PARTS:
                spent[part] += after.get(part, 0.0)
            if rank == 0:
                times.append(after["at"] - before["at"])
    shares = {part: seconds / whole for part, seconds in spent.items()}
    return {**shares, "rest": 1 - sum(shares.values())}, statistics.median(times)


def read_losses(metrics: Path) -> dict[str, list[float]]:
    """Return the losses that a run reported, by group."""
    losses: dict[str, list[float]] = {}
    for line in map(json.loads, metrics.read_text().splitlines()):
        losses.setdefault(line["group"], []).append(line["metrics"]["loss"])
    return losses


def beside(found: Found, first: Found) -> dict[str, Any]:
    """Return the figures of a run, and how far its result is from the first one's."""
    if found.losses.keys() != first.losses.keys():
        sys.exit(f"{found.processes} processes reported {sorted(found.losses)}")
    largest = {key: one.abs().max().item() for key, one in first.vectors.items()}
    return {
        "processes": found.processes,
        "samples_a_second": found.samples_a_second,
        "step_seconds": found.step,
        "outside_forward_and_backward": found.outside,
        "shares": found.shares,
        "vectors_apart": max(
            (one - first.vectors[key]).abs().max().item() / largest[key]
            for key, one in found.vectors.items()
        ),
        "losses": found.losses,
        "losses_apart": max(
            abs(one - other) / abs(other)
            for group, losses in found.losses.items()
            for one, other in zip(losses, first.losses[group], strict=True)
        ),
    }


def shown(row: dict[str, Any]) -> str:
    """Return a row in words."""
    spent = ", ".join(f"{part} {share:.1%}" for part, share in row["shares"].items())
    crowded = not torch.cuda.is_available() and row["processes"] > cores()
    return (
        f"{row['processes']} processes: {row['samples_a_second']:.2f} samples/s, "
        f"{row['outside_forward_and_backward']:.1%} outside forward and backward ({spent}); "
        f"from the first run vectors are apart by {row['vectors_apart']:.2g} of the largest, "
        f"losses by {row['losses_apart']:.2g}"
        + (f"; more than the {cores()} cores: no measure of speed" if crowded else "")
    )


if __name__ == "__main__":
    main()
