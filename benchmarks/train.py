"""Training, here and by diffusers' own script: python -m benchmarks.train --peer DIFFUSERS

DIFFUSERS is a checkout of diffusers, whose examples/ are run as they are. Both learn from the same
pictures with the same weights, effective batch and precision, in turn, each run in a process of its
own; without --peer it is ours alone. What one gains by what, `python -m benchmarks.gains` says.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from benchmarks import clocked, models
from benchmarks.clocked import Cost
from benchmarks.flops import flops_of_sample, use_of_device

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


def main() -> None:
    """Print what each took, and the ratios pair by pair."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=models.NAMES, default="demo", help="of the model")
    parser.add_argument("--method", choices=COMMANDS, default="textual_inversion")
    parser.add_argument("--peer", type=Path, metavar="DIFFUSERS", help="a checkout of diffusers")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4, help="the effective one")
    parser.add_argument(
        "--peer-at-once",
        type=int,
        default=1,
        help="samples that their script takes at once; its README has 1, accumulated",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", default="off", help="as training.compile of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="to write the figures to, too")
    parser.add_argument(
        "--every", type=int, help="steps between two checkpoints of ours (default: all of them)"
    )
    given = parser.parse_args()
    given.every = given.every or given.steps
    if given.steps < clocked.FEWEST:
        parser.error(f"--steps: {clocked.FEWEST} at least are wanted, found {given.steps}")
    if given.batch % given.peer_at_once:
        parser.error("--peer-at-once: a divisor of --batch is wanted")
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, Path(scratch))


def compare(given: Any, scratch: Path) -> None:
    """Run both in turn; after each of them the file has every figure that there is."""
    given.model = models.folder_of(given.size, scratch)
    given.pixels = models.pixels_of(given.size)
    given.classes = draw_class(scratch / "class", given.pixels)
    ours, theirs = COMMANDS[given.method]
    makers = {"ours": ours, **({"diffusers": theirs} if given.peer else {})}
    samples = given.batch * (2 if given.method == "lora" else 1)  # those of the class count, too
    found: dict[str, list[Cost]] = {name: [] for name in makers}
    asked = {key: str(value) for key, value in vars(given).items() if key not in ("json", "model")}
    figures: dict[str, Any] = {"asked": asked}
    for repeat in range(given.repeats):
        for name, make in makers.items():
            cost = clocked.run(make(given, scratch / f"{name}-{repeat}"))
            found[name].append(cost)
            print(f"{name:10} {cost.shown(samples)}", flush=True)
            figures["costs"] = {
                name: [cost._asdict() for cost in costs] for name, costs in found.items()
            }
            clocked.keep(given.json, figures)
    if given.peer:
        figures["ratios"] = clocked.ratios(found["ours"], found["diffusers"])
        clocked.keep(given.json, figures)
    figures |= device_of(given, found["ours"], samples)
    clocked.keep(given.json, figures)


def device_of(given: Any, costs: list[Cost], samples: int) -> dict[str, Any]:
    """Return and print what of the device's arithmetic was used."""
    work = flops_of_sample(given.model, given.pixels, given.method)
    rate = samples / statistics.median(cost.step for cost in costs)
    return use_of_device(work, rate, given.precision, "a sample")


def own_command(given: Any, folder: Path, different: Mapping[str, Any]) -> list[str]:
    """Return how ours is run: as the basic config, without sample pictures."""
    hparams = {
        "model": {"pretrained_model_name_or_path": str(given.model)},
        "training": {
            "num_sgd_steps": given.steps,
            "train_batch_size": given.batch,
            "gradient_accumulation_steps": 1,
            "optimizer_name": "adamw",
            "learning_rate": 1e-4,
            "scale_lr": False,
            "precision": given.precision,
            "checkpoint_freq": given.every,
            "metric_report_freq": given.every,
            **({"compile": given.compile} if given.compile != "off" else {}),
        },
        "inference": {"generate_training_images": False},
        **different,
    }
    hparams["concepts"] = {
        "img_dirs": "det_logos",
        "img_size": given.pixels,
        "latents_dir": "off",  # each run starts as the first
        **hparams["concepts"],
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


def peer_command(given: Any, script: str, folder: Path, options: Mapping[str, Any]) -> list[str]:
    """Return how their script is run."""
    of_both = {
        "pretrained_model_name_or_path": given.model,
        "resolution": given.pixels,
        "train_batch_size": given.peer_at_once,
        "gradient_accumulation_steps": given.batch // given.peer_at_once,
        "max_train_steps": given.steps,
        "checkpointing_steps": 10 * given.steps,
        "learning_rate": 1e-4,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "output_dir": folder,
        "seed": 0,
        **({"mixed_precision": "bf16"} if given.precision == "bf16" else {}),
    }
    flat = [
        text for key, value in {**of_both, **options}.items() for text in (f"--{key}", str(value))
    ]
    path = given.peer / "examples" / script
    standins = str(clocked.STANDINS)
    return [sys.executable, "-c", PEER, standins, str(path), *flat, "--center_crop"]


def invert(given: Any, folder: Path) -> list[str]:
    """Return how ours learns a word."""
    concepts = {
        "concept_strs": "det-logo",
        "initializer_strs": "logo",
        "learnable_properties": "object",
    }
    return own_command(given, folder, {"concepts": concepts})


def peer_invert(given: Any, folder: Path) -> list[str]:
    """Return how theirs does."""
    options = {
        "train_data_dir": "det_logos",
        "placeholder_token": "det-logo",
        "initializer_token": "logo",
        "learnable_property": "object",
        "save_steps": 10 * given.steps,
    }
    return peer_command(given, "textual_inversion/textual_inversion.py", folder, options)


def adapt(given: Any, folder: Path) -> list[str]:
    """Return how ours trains a LoRA with a prior."""
    own, of_class = PROMPTS
    different = {
        "method": {"kind": "lora", "rank": 4},
        "prior": {"class_prompt": of_class, "class_dir": str(given.classes)},
        "concepts": {"concept_strs": "det-logo", "instance_prompt": own},
    }
    return own_command(given, folder, different)


def peer_adapt(given: Any, folder: Path) -> list[str]:
    """Return how theirs does."""
    own, of_class = PROMPTS
    options = {
        "instance_data_dir": "det_logos",
        "instance_prompt": own,
        "class_data_dir": given.classes,
        "class_prompt": of_class,
        "num_class_images": CLASS_PICTURES,
        "rank": 4,
    }
    command = peer_command(given, "dreambooth/train_dreambooth_lora.py", folder, options)
    return [*command, "--with_prior_preservation"]


Make = Callable[[Any, Path], list[str]]
COMMANDS: dict[str, tuple[Make, Make]] = {
    "textual_inversion": (invert, peer_invert),
    "lora": (adapt, peer_adapt),
}


def draw_class(folder: Path, size: int) -> Path:
    """Write pictures of plain colours, which stand for the class: what they show costs nothing."""
    folder.mkdir()
    for number in range(CLASS_PICTURES):
        colour = (number * 16, 255 - number * 16, 128)
        Image.new("RGB", (size, size), colour).save(folder / f"{number:03d}.png")
    return folder


if __name__ == "__main__":
    main()
