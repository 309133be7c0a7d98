"""Images, here and by diffusers' own pipeline: python -m benchmarks.generate --peer

Both draw the same grid with the same weights and precision, in turn, each run in a process of its
own, from starting Python to the last file; ours by `detsd run`, theirs an image at a time, as
`benchmarks.plain` says. Without --peer it is ours alone. What one gains by what,
`python -m benchmarks.drawing_gains` says.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks import clocked, drawn, models
from benchmarks.drawn import Drawn
from benchmarks.flops import flops_of_image, use_of_device

GRID = Path("generate_grid.yaml")
CONCEPT = "demo/det-logo.safetensors"  # of the demo's model; to the others its name is plain words
PROMPTS = yaml.safe_load(GRID.read_text())["hyperparameters"]["sweep"]["prompt"]


def main() -> None:
    """Print what each took, and the ratios pair by pair."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=models.NAMES, default="demo", help="of the model")
    parser.add_argument("--peer", action="store_true", help="draw with diffusers' pipeline, too")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="denoising steps an image")
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--batch", type=int, help="of ours; as many as fit")
    parser.add_argument("--processes", type=int, default=1, help="of ours; theirs has one")
    # A grid knows no other: `pipeline.use_fp16`.
    precision = "fp16" if on_gpu else "fp32"
    parser.add_argument("--precision", choices=("fp32", "fp16"), default=precision)
    parser.add_argument("--compile", default="off", help="as pipeline.compile of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="to write the figures to, too")
    given = parser.parse_args()
    if given.images < 1 or given.images % len(PROMPTS):
        parser.error(f"--images: a multiple of {len(PROMPTS)}, the prompts, is wanted")
    if given.precision == "fp16" and not on_gpu:
        parser.error("--precision: a CPU draws in fp32")
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, Path(scratch))


def compare(given: Any, scratch: Path) -> None:
    """Run both in turn; after each of them the file has every figure that there is."""
    given.model = models.folder_of(given.size, scratch)
    file = scratch / "grid.yaml"
    file.write_text(yaml.safe_dump(grid(given)))
    names = ("ours", "diffusers") if given.peer else ("ours",)
    found: dict[str, list[Drawn]] = {name: [] for name in names}
    asked = {key: str(value) for key, value in vars(given).items() if key not in ("json", "model")}
    figures: dict[str, Any] = {"asked": asked}
    for repeat in range(given.repeats):
        for name in names:
            folder = scratch / f"{name}-{repeat}"
            found[name].append(draw(given, file, folder, plainly=name == "diffusers"))
            print(f"{name:10} {found[name][-1].shown()}", flush=True)
            figures["costs"] = {
                name: [one._asdict() for one in each] for name, each in found.items()
            }
            clocked.keep(given.json, figures)
    figures |= device_of(given, found["ours"])
    if given.peer:
        figures["differ_by"] = difference(*(pictures(scratch / f"{name}-0") for name in names))
        print(f"the images differ by {figures['differ_by']:.3g} of 255 on average")
        figures["ratios"] = clocked.ratios(found["ours"], found["diffusers"], drawn.RATIOS)
    clocked.keep(given.json, figures)


def grid(given: Any) -> dict[str, Any]:
    """Return the experiment that both draw: generate_grid.yaml without its scorer."""
    hparams = {
        "pipeline": {
            "pretrained_model_name_or_path": str(given.model),
            # In which a step is one prediction: in pndm, the default, there is one more.
            "scheduler_name": "ddim",
            "use_fp16": given.precision == "fp16",
            "compile": given.compile,
        },
        "batch_size": given.batch or "auto",
        "sweep": {
            "prompt": PROMPTS,
            "guidance_scale": [given.guidance],
            "steps": given.steps,
            "seed": {"first": 0, "count": given.images // len(PROMPTS)},
        },
    }
    if given.size == "demo":
        hparams["local_checkpoint_paths"] = CONCEPT
    return {**yaml.safe_load(GRID.read_text()), "hyperparameters": hparams}


def draw(given: Any, file: Path, folder: Path, *, plainly: bool) -> Drawn:
    """Draw the grid, and return what it took."""
    module = ["benchmarks.plain"] if plainly else ["detsd", "run"]
    command = [sys.executable, "-m", *module, str(file), "--out", str(folder)]
    if not plainly:
        command += ["--processes", str(given.processes)]
    cost = drawn.run(command, folder / "images")
    count = len(pictures(folder))
    if count != given.images:
        sys.exit(f"{' '.join(command)} left {count} images, {given.images} are wanted")
    return cost


def device_of(given: Any, costs: list[Drawn]) -> dict[str, Any]:
    """Return and print what of the device's arithmetic was used."""
    rates = [cost.rate for cost in costs if cost.rate is not None]
    if not rates:
        return {}
    pixels = models.pixels_of(given.size)
    work = flops_of_image(given.model, pixels, given.steps, given.guidance > 1)
    return use_of_device(work, statistics.median(rates), given.precision, "an image")


def pictures(folder: Path) -> list[Path]:
    """Return a run's images, in the order of the grid."""
    return sorted((folder / "images").glob("*.png"))


def difference(some: list[Path], others: list[Path]) -> float:
    """Return by how many levels of 255 the images differ, on average."""
    pairs = zip(map(levels, some), map(levels, others), strict=True)
    return float(np.mean([np.abs(one - other).mean() for one, other in pairs]))


def levels(path: Path) -> Any:
    """Return the picture's numbers."""
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


if __name__ == "__main__":
    main()
