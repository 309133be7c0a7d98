"""LoRA with a prior, here and by diffusers' script: python -m benchmarks.lora --peer SCRIPT

SCRIPT is examples/dreambooth/train_dreambooth_lora.py of a checkout of diffusers. Both train the
same layers of the same model on the same pictures, with the same batch and rank, each run in a
process of its own. A short run and a long one tell what a sample costs without what starting does.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

CLASS_PICTURES = 16
PROMPTS = ("a photo of a det-logo", "a photo of a logo")
# Their script finds the stand-in only after transformers has looked for the real thing.
PEER = """
import runpy, sys
import diffusers, transformers, peft
sys.path.insert(0, sys.argv.pop(1))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Cost(NamedTuple):
    """What a run of a process took."""

    seconds: float
    megabytes: float


def main() -> None:
    """Print what a sample costs, the time before the first one, and the memory, side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True, metavar="SCRIPT")
    parser.add_argument("--model", default="demo/model", help="in diffusers' layout")
    parser.add_argument("--size", type=int, default=64, help="of a picture's side")
    parser.add_argument("--steps", type=int, default=40, help="of the short run; the long has 4 ×")
    parser.add_argument("--batch", type=int, default=4, help="and as many samples of the class")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[list[Cost]]] = {"diffusers": [], "ours": []}
    with tempfile.TemporaryDirectory() as scratch:
        classes = draw_class(Path(scratch) / "class", given.size)
        for repeat, name in itertools.product(range(given.repeats), found):
            make = {"diffusers": peer_command, "ours": own_command}[name]
            costs = [
                run(make(given, steps, Path(scratch) / f"{name}-{repeat}-{steps}", classes))
                for steps in (given.steps, 4 * given.steps)
            ]
            found[name].append(costs)
            print(f"{name:9} {told(costs, given)}", flush=True)
    print_ratios(found, given)


def told(costs: list[Cost], given: Any) -> str:
    """Return a short and a long run's costs in a line."""
    rate = 1 / seconds_a_sample(costs, given)
    return (
        f"{rate:6.2f} samples/s, {start(costs, given):5.1f} s before the first, "
        f"{costs[1].megabytes:.0f} MB"
    )


def seconds_a_sample(costs: list[Cost], given: Any) -> float:
    """Return what one more sample costs; those of the class count, too."""
    return (costs[1].seconds - costs[0].seconds) / (3 * given.steps * 2 * given.batch)


def start(costs: list[Cost], given: Any) -> float:
    """Return the seconds that are not spent on samples."""
    return costs[0].seconds - given.steps * 2 * given.batch * seconds_a_sample(costs, given)


def print_ratios(found: Mapping[str, list[list[Cost]]], given: Any) -> None:
    """Print the medians of the ratios, theirs over ours, pair by pair."""
    measures = {
        "seconds a sample": lambda costs: seconds_a_sample(costs, given),
        "whole long run": lambda costs: costs[1].seconds,
        "memory": lambda costs: costs[1].megabytes,
    }
    for what, measure in measures.items():
        pairs = zip(found["diffusers"], found["ours"], strict=True)
        ratios = [measure(theirs) / measure(ours) for theirs, ours in pairs]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{what}: theirs is {statistics.median(ratios):.2f} × ours ({shown})")


def run(command: list[str]) -> Cost:
    """Run it; return its seconds, and the megabytes of its largest process."""
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = process.stdout.read() if process.stdout else b""
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed:\n{output.decode()[-3000:]}")
    return Cost(time.monotonic() - begun, used.ru_maxrss / 1024)


def peer_command(given: Any, steps: int, folder: Path, classes: Path) -> list[str]:
    """Return how their script is run."""
    standins = Path(__file__).parent / "standins"
    own, of_class = PROMPTS
    options = {
        "pretrained_model_name_or_path": given.model,
        "instance_data_dir": "det_logos",
        "instance_prompt": own,
        "class_data_dir": classes,
        "class_prompt": of_class,
        "num_class_images": CLASS_PICTURES,
        "resolution": given.size,
        "train_batch_size": given.batch,
        "max_train_steps": steps,
        "checkpointing_steps": 10 * steps,
        "learning_rate": 1e-4,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "rank": 4,
        "output_dir": folder,
        "seed": 0,
    }
    flat = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    script = str(given.peer)
    more = ["--with_prior_preservation", "--center_crop"]
    return [sys.executable, "-c", PEER, str(standins), script, *flat, *more]


def own_command(given: Any, steps: int, folder: Path, classes: Path) -> list[str]:
    """Return how ours is run."""
    own, of_class = PROMPTS
    hparams = {
        "model": {"pretrained_model_name_or_path": given.model},
        "method": {"kind": "lora", "rank": 4},
        "prior": {"class_prompt": of_class, "class_dir": str(classes)},
        "concepts": {
            "concept_strs": "det-logo",
            "instance_prompt": own,
            "img_dirs": "det_logos",
            "img_size": given.size,
        },
        "training": {
            "num_sgd_steps": steps,
            "train_batch_size": given.batch,
            "gradient_accumulation_steps": 1,
            "optimizer_name": "adamw",
            "learning_rate": 1e-4,
            "scale_lr": False,
            "precision": "fp32",
            "checkpoint_freq": steps,
            "metric_report_freq": steps,
        },
        "inference": {"generate_training_images": False},
    }
    experiment = {
        "name": "benchmark",
        "entrypoint": "python3 -m determined.launch.torch_distributed python3 -m detsd.finetune",
        "searcher": {"name": "single", "metric": "loss"},
        "hyperparameters": hparams,
    }
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(experiment))
    command = [sys.executable, "-m", "detsd", "run", str(file)]
    return [*command, "--processes", "1", "--out", str(folder)]


def draw_class(folder: Path, size: int) -> Path:
    """Write pictures of plain colours, which stand for the class: what they show costs nothing."""
    folder.mkdir()
    for number in range(CLASS_PICTURES):
        colour = (number * 16, 255 - number * 16, 128)
        Image.new("RGB", (size, size), colour).save(folder / f"{number:03d}.png")
    return folder


if __name__ == "__main__":
    main()
