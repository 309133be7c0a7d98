"""How near few steps of a solver come to many: python -m benchmarks.solvers

The same images by each, of the same prompts, seeds and noise, by the demo's model or another one's
folder: by how many of 255 levels they differ from those of 200 steps of ddim, on average, and how
long one takes. The first line is what samples are drawn with by default, the second what
`inference_scheduler_name: auto` is.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import models
from detsd.config import InferenceConfig, ModelConfig, read
from detsd.model import StableDiffusion
from detsd.pretrained import load_model
from detsd.sampler import Request, Settings, generate
from detsd.samples import sample_settings

PROMPTS = (
    "a photo of a red star on a blue striped background",
    "a watercolor painting of a brain logo on a yellow background",
    "pixel art of a green circle on a green lawn",
    "a tarot card with an illustration of a logo in a starry night sky",
)
TRUTH = Settings("ddim", {"clip_sample": False}, 200)
OTHERS = ("ddim", "dpm++-2m", "dpm++-2m-karras", "dpm++-3m-karras", "unipc", "unipc-karras", "deis")


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=models.DEMO, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=4, help="of each prompt")
    parser.add_argument("--steps", type=int, nargs="*", default=[10, 15, 20, 25])
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = {"pretrained_model_name_or_path": str(given.model)}
    model = load_model(read(ModelConfig, named), device)
    truth, _ = draw(model, TRUTH, given.seeds)
    said: list[dict[str, str]] = [{}, {"inference_scheduler_name": "auto"}]
    ways = [sample_settings(read(InferenceConfig, one)) for one in said]
    ways += [Settings(name, {}, steps) for name in OTHERS for steps in given.steps]
    for settings in ways:
        levels, seconds = draw(model, settings, given.seeds)
        each = [np.abs(one - other).mean() for one, other in zip(levels, truth, strict=True)]
        print(
            f"{settings.scheduler:16} {settings.steps:3} steps: {statistics.mean(each):6.2f} "
            f"levels (median {statistics.median(each):.2f}), {seconds:.3f} s an image",
            flush=True,
        )


def draw(model: StableDiffusion, settings: Settings, seeds: int) -> tuple[list[np.ndarray], float]:
    """Return the images as arrays, and the seconds that one took."""
    requests = [Request(prompt, seed, 7.5, settings) for prompt in PROMPTS for seed in range(seeds)]
    begun = time.monotonic()
    made = dict(generate(model, requests))
    seconds = (time.monotonic() - begun) / len(requests)
    return [np.asarray(made[place]).astype(int) for place in range(len(requests))], seconds


if __name__ == "__main__":
    main()
