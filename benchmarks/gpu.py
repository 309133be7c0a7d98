"""What a GPU can do, in one command: make gpu MINUTES=10, or python -m benchmarks.gpu

Passes the tests that need one and takes the figures that benchmarks/README.md is to have, the most
important ones first, for as long as there is time: each in a process of its own, so that one that
fails or hangs costs no other. In OUT are then

    table.md       what was measured, beside what is wanted
    figures.json   every figure, and what became of each job
    tests-*.xml    the tests, for programs
    log.txt        what all of them said

Packages that this Python lacks come from wheels/ (make wheels) or from pip's index into a folder
beside these; torch stays as it is. With --pretrain the demo's model is trained there instead, from
the weights that it has, into OUT/model.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import lacking
from benchmarks.goals import GOALS, Goal, table
from benchmarks.jobs import JSON, Job, Result, work_through

SPARE = 20.0  # seconds that training the demo's model has to write it in


def main() -> None:
    """Do it all, or say in a line why not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="for all of it")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--peer", type=Path, metavar="DIFFUSERS", help="a checkout of diffusers")
    parser.add_argument("--only", nargs="+", metavar="JOB", help="of them")
    parser.add_argument("--pretrain", action="store_true", help="train the demo's model instead")
    given = parser.parse_args()
    begun = time.monotonic()
    about = device()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        variables = {"PYTHONPATH": equip(Path(scratch)), "BENCHMARK_MODELS": f"{scratch}/models"}
        left = 60 * given.minutes - (time.monotonic() - begun)
        jobs = pretraining(out, left) if given.pretrain else plan(out, about["devices"], given.peer)
        if given.only:
            jobs = chosen(jobs, given.only)
        goals = () if given.pretrain else GOALS
        run(jobs, out, left, variables, about, goals)
    print((out / "table.md").read_text())


def device() -> dict[str, Any]:
    """Return what it runs on; without a GPU leave."""
    try:
        import torch
    except ImportError:
        sys.exit(f"no torch is installed for {sys.executable}: make gpu GPU_PYTHON=another")
    if not torch.cuda.is_available():
        sys.exit(f"no GPU is here that torch {torch.__version__} can use")
    return {
        "device": torch.cuda.get_device_name(),
        "devices": torch.cuda.device_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def equip(folder: Path) -> str:
    """Put what is lacking into a folder; return the PYTHONPATH to work with."""
    packages = folder / "packages"
    try:
        if put := lacking.install(packages):
            print(f"beside what is installed: {', '.join(put)}", flush=True)
    except lacking.LackingError as error:
        sys.exit(f"what is needed beside torch cannot be had (make wheels, elsewhere): {error}")
    paths = [str(packages), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


def plan(out: Path, devices: int, peer: Path | None) -> list[Job]:
    """Return the jobs, the most important ones first."""
    beside = ("--peer", str(peer)) if peer else ()
    bf16 = ("--precision", "bf16", "--json", JSON)
    basic = (*sd1("4", "500", "1"), "--every", "100")
    jobs = [
        Job("words-4", module("train", *sd1("4", "40", "2"), *bf16, *beside), 180),
        Job("words-32", module("train", *sd1("32", "20", "1"), *bf16), 60),
        Job("images-50", drawing("50"), 75),
        # 500 steps of 4 as finetune_const.yaml has them, from the command to the file.
        Job("basic", module("train", *basic, *bf16), 75),
        Job("basic-graph", module("train", *basic, "--compile", "graph", *bf16), 75),
        Job("tests", tests(out, "not compiled"), 120),
        Job("images-25", drawing("25"), 60),
        Job(
            "lora-4", module("train", *sd1("4", "30", "1"), "--method", "lora", *bf16, *beside), 90
        ),
        Job(
            "words-32-compiled",
            module("train", *sd1("32", "20", "1"), "--compile", "blocks", *bf16),
            120,
        ),
        Job("images-50-compiled", drawing("50", "--compile", "blocks"), 120),
        Job("gains", module("gains", "--size", "sd1", "--json", JSON), 60),
    ]
    counts = [str(count) for count in (1, 2, 4, 8) if count <= devices]
    if devices > 1:
        scaled = ("--size", "sd1", "--batch", "32", "--steps", "20", "--processes", *counts)
        jobs.append(Job("scaling", module("scaling", *scaled, *bf16), 60 * len(counts)))
    sdxl = ("--size", "sdxl", "--batch", "4", "--steps", "12", "--repeats", "1")
    jobs.append(Job("tests-compiled", tests(out, "compiled"), 180))
    return [*jobs, Job("words-4-sdxl", module("train", *sdxl, *bf16), 180)]


def tests(out: Path, those: str) -> tuple[str, ...]:
    """Return how the tests that need a GPU are run: as they end, the log has them."""
    file = f"tests-{those.replace(' ', '-')}.xml"
    record = f"--junitxml={os.path.relpath(out)}/{file}"
    words = ("-v", "--durations=10", "-p", "no:cacheprovider", "-k", those, record)
    # Other versions than the tested ones may warn of what these do not.
    words += ("-W", "default")
    # The others may need what is for no benchmark.
    files = [file for file in sorted(Path("tests").glob("*.py")) if "mark.gpu" in file.read_text()]
    return (sys.executable, "-m", "pytest", "-m", "gpu", *words, *map(str, files))


def module(name: str, *options: str) -> tuple[str, ...]:
    """Return how a benchmark is run."""
    return (sys.executable, "-m", f"benchmarks.{name}", *options)


def sd1(batch: str, steps: str, repeats: str) -> tuple[str, ...]:
    """Return the options of a training of that size."""
    return ("--size", "sd1", "--batch", batch, "--steps", steps, "--repeats", repeats)


def drawing(steps: str, *options: str) -> tuple[str, ...]:
    """Return how images are drawn."""
    return module(
        *("generate", "--size", "sd1", "--images", "160", "--steps", steps, *options),
        *("--precision", "fp16", "--repeats", "1", "--json", JSON),
    )


def pretraining(out: Path, seconds: float) -> list[Job]:
    """Return the job that trains the demo's model, from where it is."""
    model = out / "model"
    if not model.exists():
        shutil.copytree("demo/model", model)
    minutes = max(0.1, (seconds - SPARE) / 60)
    options = ("--out", str(model), "--minutes", f"{minutes:.2f}")
    return [Job("pretrain", (sys.executable, "-m", "demo.pretrain", *options), seconds)]


def chosen(jobs: Sequence[Job], names: Sequence[str]) -> list[Job]:
    """Return the jobs of these names."""
    known = {job.name: job for job in jobs}
    if unknown := set(names) - known.keys():
        sys.exit(f"--only {', '.join(sorted(unknown))}: no such job; there are {', '.join(known)}")
    return [job for job in jobs if job.name in names]


def run(
    jobs: Sequence[Job],
    out: Path,
    seconds: float,
    variables: Mapping[str, str],
    about: Mapping[str, Any],
    goals: Sequence[Goal],
) -> list[Result]:
    """Work the jobs off; what there is lies in the folder after each of them."""
    (out / "log.txt").write_text("")

    def note(results: Sequence[Result]) -> None:
        figures = {"about": about, "jobs": [result._asdict() for result in results]}
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        (out / "table.md").write_text(table(results, about, goals))

    return work_through(jobs, out / "log.txt", seconds, variables, note)


if __name__ == "__main__":
    main()
