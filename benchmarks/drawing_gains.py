"""What each way of saving work gains in drawing: python -m benchmarks.drawing_gains --size clip

The plain way draws an image at a time, and for each encodes its prompt and the empty one anew, asks
the UNet twice a step, with the prompt and without, and encodes the PNG before it goes on. Each gain
is taken alone, and then all of them; as many images in every way in turn, several times over.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from benchmarks import models
from detsd.config import ModelConfig, read
from detsd.cores import cores
from detsd.denoise import build_scheduler
from detsd.model import StableDiffusion
from detsd.pretrained import load_model
from detsd.request import Settings
from detsd.sampler import DECODED_AT_ONCE, to_levels
from detsd.text import Conditioning

PROMPTS = ("a photo of a logo", "a painting of a logo", "pixel art of a logo", "a logo")
GUIDANCE = 7.5


class Way(NamedTuple):
    """Which work is saved."""

    together: bool = False  # the images
    paired: bool = False  # with the prompt and without, in one batch
    encoded_once: bool = False  # the prompts
    beside: bool = False  # PNGs, encoded in threads
    channels_last: bool = False


WAYS = {
    "plain": Way(),
    "images together": Way(together=True),
    "guidance in one batch": Way(paired=True),
    "prompts encoded once": Way(encoded_once=True),
    "PNGs in threads": Way(beside=True),
    "channels last": Way(channels_last=True),
    "all but channels last": Way(True, True, True, True),
    "all": Way(True, True, True, True, True),
}


def main() -> None:
    """Print the seconds of an image in each way, and what it gains over the plain one."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=models.NAMES, default="demo", help="of the model")
    parser.add_argument("--images", type=int, default=16, help="of each way, each time")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps an image")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(models.folder_of(given.size, Path(scratch)))
        config = read(ModelConfig, {"pretrained_model_name_or_path": folder})
        precision = "fp16" if on_gpu else "fp32"
        painters = {
            name: _Painter(way, load_model(config, device, precision=precision), given.steps)
            for name, way in WAYS.items()
        }
    seconds: dict[str, list[float]] = {name: [] for name in painters}
    for round_ in range(given.repeats + 1):
        for name, painter in painters.items():
            begun = time.monotonic()
            painter.draw(given.images)
            if round_:  # the first is for what is chosen and allocated once
                seconds[name].append((time.monotonic() - begun) / given.images)
    plain = seconds["plain"]
    for name, each in seconds.items():
        ratios = [slow / fast for slow, fast in zip(plain, each, strict=True)]
        print(
            f"{name:22} {statistics.median(each):.3f} s an image, "
            f"{statistics.median(ratios):.2f} × as fast as plain "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


class _Painter:
    """Draws in a way."""

    def __init__(self, way: Way, model: StableDiffusion, steps: int):
        self._way, self._model = way, model
        self._settings = Settings("ddim", {}, steps)
        self._side = model.size // model.vae_factor
        self._kept: dict[str, Conditioning] = {}
        model.vae.to(model.device)
        if way.channels_last:
            for module in (model.unet, model.vae):
                module.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def draw(self, count: int) -> None:
        """Draw images up to their files' bytes."""
        at_once = count if self._way.together else 1
        encoding: list[Future[bytes]] = []
        with ThreadPoolExecutor(cores() if self._way.beside else 1) as pool:
            for first in range(0, count, at_once):
                for image in self._images(range(first, first + at_once)):
                    encoding.append(pool.submit(_encode, image))
                    if not self._way.beside:
                        encoding[-1].result()
        assert all(one.result() for one in encoding)

    def _images(self, seeds: Sequence[int]) -> list[Image.Image]:
        latents = self._latents(seeds)
        some = latents.split(max(1, DECODED_AT_ONCE // latents[0, 0].numel()))
        levels = torch.cat([to_levels(self._model.decode_latents(one)) for one in some])
        return [Image.fromarray(one) for one in levels.cpu().numpy()]

    def _latents(self, seeds: Sequence[int]) -> torch.Tensor:
        scheduler = build_scheduler(self._model, self._settings)
        scheduler.set_timesteps(self._settings.steps)
        told = self._told([PROMPTS[seed % len(PROMPTS)] for seed in seeds])
        untold = self._told([""] * len(seeds))
        shape = (4, self._side, self._side)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in seeds]
        latents = torch.stack(noise).to(self._model.device)
        timesteps = scheduler.timesteps.to(self._model.device)
        for timestep, on_device in zip(scheduler.timesteps, timesteps, strict=True):
            if self._way.paired:
                noisy = torch.cat([latents, latents])
                both = self._predict(noisy, on_device, told.followed_by(untold))
                towards, away = both.chunk(2)
            else:
                towards = self._predict(latents, on_device, told)
                away = self._predict(latents, on_device, untold)
            prediction = away + GUIDANCE * (towards - away)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        return latents

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        size = self._model.size
        origins = torch.tensor([[size, size, 0, 0]], device=latents.device)
        origins = origins.expand(len(latents), 4)
        return self._model.predict(latents, timestep, told, origins).float()

    def _told(self, texts: Sequence[str]) -> Conditioning:
        if not self._way.encoded_once:
            self._kept.clear()
        for text in texts:
            if text not in self._kept:
                self._kept[text] = self._model.encode_prompts([text])
        rows = [self._kept[text] for text in texts]
        pooled = [row.pooled for row in rows if row.pooled is not None]
        states = torch.cat([row.states for row in rows])
        return Conditioning(states, torch.cat(pooled) if pooled else None)


def _encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
