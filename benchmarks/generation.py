"""The images of generate_grid.yaml, made here and the plain way: python -m benchmarks.generation

The plain way is diffusers' pipeline, called once a prompt, scale and seed, each image saved as it
comes. Both do all of it in a process of their own, from starting Python to the last file.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import yaml

FILE = "generate_grid.yaml"


def main() -> None:
    """Print the seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=40, help="a cell; 40 are 480 images")
    parser.add_argument("--processes", type=int, default=1, help="of ours; the plain way has one")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        draw_plainly(arguments.plain, arguments.seeds)
        return
    seconds = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in ("plain", "ours")}
        seeds = f"sweep.seed={{first: 0, count: {arguments.seeds}}}"
        own = ["--out", str(folders["ours"]), "--processes", str(arguments.processes)]
        seeds_of_plain = ["--seeds", str(arguments.seeds)]
        commands = {
            "plain": ["benchmarks.generation", "--plain", str(folders["plain"]), *seeds_of_plain],
            "ours": ["detsd", "run", FILE, "--set", seeds, *own],
        }
        for name, folder in folders.items():
            seconds[name], peak = run(commands[name])
            count = len(list(folder.glob("images/*.png")))
            print(f"{name:6} {count} images in {seconds[name]:.1f} s, at most {peak:.0f} MiB")
    print(f"the plain way takes {seconds['plain'] / seconds['ours']:.2f} × as long")


def run(command: list[str]) -> tuple[float, float]:
    """Run the module; return its seconds, and the MiB of the largest process."""
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return time.monotonic() - begun, used.ru_maxrss / 1024


def draw_plainly(folder: Path, seeds: int) -> None:
    """Draw the same images with diffusers alone."""
    import torch
    from diffusers import StableDiffusionPipeline

    hparams: dict[str, Any] = yaml.safe_load(Path(FILE).read_text())["hyperparameters"]
    sweep, on_gpu = hparams["sweep"], torch.cuda.is_available()
    pipeline = StableDiffusionPipeline.from_pretrained(
        hparams["pipeline"]["pretrained_model_name_or_path"],
        torch_dtype=torch.float16 if on_gpu else torch.float32,
    ).to("cuda" if on_gpu else "cpu")
    pipeline.load_textual_inversion(hparams["local_checkpoint_paths"])
    pipeline.set_progress_bar_config(disable=True)
    (folder / "images").mkdir(parents=True)
    axes = (sweep["prompt"], sweep["guidance_scale"], range(seeds))
    for number, (prompt, scale, seed) in enumerate(product(*axes)):
        image = pipeline(
            prompt,
            guidance_scale=scale,
            num_inference_steps=sweep["steps"],
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        image.save(folder / "images" / f"{number}.png")


if __name__ == "__main__":
    main()
