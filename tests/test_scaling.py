"""How a step's time is taken apart, and that the parts of a real run are all found."""

import json
import subprocess
import sys

import pytest

from benchmarks.clocked import WARMING
from benchmarks.scaling import read_shares
from tests.conftest import ROOT


def notes(rank, seconds, **parts):
    """A process's lines: the first ones are not counted, and between the others are so many s."""
    return [
        {"rank": rank, "at": number * seconds, **parts}
        for number in range(WARMING + 1 + len(range(3)))
    ]


def test_what_no_part_took_is_the_rest():
    slow = notes(1, 2.0, forward=1.0, backward=0.5, exchange=0.5)
    fast = notes(0, 2.0, forward=0.5, backward=0.5, batches=0.25)
    shares, step = read_shares([line for pair in zip(slow, fast, strict=True) for line in pair])
    assert step == 2.0
    assert shares == pytest.approx(
        {
            "forward": 1.5 / 4,
            "backward": 1 / 4,
            "batches": 0.25 / 4,
            "exchange": 0.5 / 4,
            "optimizer": 0,
            "rest": 0.75 / 4,
        }
    )


@pytest.mark.slow
def test_two_processes_come_to_what_one_does(tmp_path):
    options = ["--processes", "1", "2", "--steps", "8", "--batch", "4"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", *options, "--json", str(tmp_path / "found")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    alone, together = json.loads((tmp_path / "found").read_text())["runs"]
    for row in (alone, together):
        assert row["vectors_apart"] < 1e-5 and row["losses_apart"] < 1e-5
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert all(row["shares"][part] > 0 for part in ("forward", "backward", "batches"))
    assert alone["shares"]["exchange"] == 0 < together["shares"]["exchange"]
