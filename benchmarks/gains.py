"""What each way of saving work gains by itself: python -m benchmarks.gains --size clip

The plain way learns a word as the examples of diffusers do: a sample at a time through the whole
model, each picture through the VAE whenever it is used, the whole table of words a parameter of the
optimizer, and all rows but the word's put back after a step. Each gain is taken alone, and then all
of them; a step of every way in turn, several times over.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch.nn import functional as F

from benchmarks import models
from detsd import pretrained
from detsd.concepts import Concept
from detsd.config import ModelConfig, read
from detsd.model import StableDiffusion
from detsd.pretrained import load_model

PROMPTS = ("a photo of a det-logo", "a rendering of a det-logo", "a det-logo", "the det-logo")
VECTORS = 4


class Way(NamedTuple):
    """Which work is saved."""

    cached_latents: bool = False
    rows_only: bool = False
    together: bool = False  # the samples of a step
    light: bool = False  # layers and attention as detsd.frozen and detsd.attention have them
    channels_last: bool = False


WAYS = {
    "plain": Way(),
    "cached latents": Way(cached_latents=True),
    "rows only": Way(rows_only=True),
    "samples together": Way(together=True),
    "light layers": Way(light=True),
    "channels last": Way(channels_last=True),
    "all but channels last": Way(True, True, True, True),
    "all": Way(True, True, True, True, True),
}


def main() -> None:
    """Print the seconds of a step of each way, and what it gains over the plain one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=models.NAMES, default="demo", help="of the model")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8, help="of each way")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="to write the figures to, too")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        pixels = models.pixels_of(given.size)
        folder = str(models.folder_of(given.size, Path(scratch)))
        config = read(ModelConfig, {"pretrained_model_name_or_path": folder})
        steps = {
            name: _Learner(
                way, _load(config, device, way, given.precision), given.batch, pixels
            ).step
            for name, way in WAYS.items()
        }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(given.steps + 1):
        for name, step in steps.items():
            taken = _timed(step, device)
            if round_:  # the first is for what is chosen and allocated once
                seconds[name].append(taken)
    plain = seconds["plain"]
    for name, each in seconds.items():
        ratios = [slow / fast for slow, fast in zip(plain, each, strict=True)]
        print(
            f"{name:22} {statistics.median(each):.3f} s a step, "
            f"{statistics.median(ratios):.2f} × as fast as plain "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"seconds": seconds}, indent=1) + "\n")


def _load(config: ModelConfig, device: torch.device, way: Way, precision: str) -> StableDiffusion:
    with ExitStack() as stack:
        for lighter in () if way.light else ("lighten", "attend_in_full"):
            stack.enter_context(patch.object(pretrained, lighter, lambda module: None))
        return load_model(config, device, precision=precision)


def _timed(step: Callable[[], None], device: torch.device) -> float:
    begun = time.monotonic()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - begun


class _Learner:
    """Learns a word in a way."""

    def __init__(self, way: Way, model: StableDiffusion, batch: int, pixels: int):
        self._way, self._model, self._batch = way, model, batch
        self._random = torch.Generator().manual_seed(0)
        shape = (batch, 3, pixels, pixels)
        self._pictures = torch.rand(shape, generator=self._random) * 2 - 1
        self._timesteps = torch.linspace(0, 999, batch, device=model.device).long()
        self._origins = torch.tensor([[pixels, pixels, 0, 0]], device=model.device)
        if way.channels_last:
            model.unet.to(memory_format=torch.channels_last)
        widths = {one.key: one.module.config.hidden_size for one in model.encoders}
        vectors = {key: torch.randn(VECTORS, width) for key, width in widths.items()}
        rows = model.add_concept(Concept("det-logo", vectors))
        self._learnt = list(rows.values()) if way.rows_only else _learn_whole_tables(model)
        self._start = [one.detach().clone() for one in self._learnt]
        self._optimizer = torch.optim.AdamW(self._learnt, lr=1e-4)
        model.vae.to(model.device)
        self._cached = [model.encode_images(picture[None]) for picture in self._pictures]

    def step(self) -> None:
        """Take the step's samples forward and backward, and step."""
        at_once = self._batch if self._way.together else 1
        for first in range(0, self._batch, at_once):
            self._loss(range(first, first + at_once)).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        if not self._way.rows_only:
            for one, first_rows in zip(self._learnt, self._start, strict=True):
                _put_back(one, first_rows)

    def _loss(self, places: range) -> torch.Tensor:
        latents = torch.cat([self._latents(place) for place in places])
        noise = torch.randn(latents.shape, generator=self._random).to(latents.device)
        told = self._model.encode_prompts([PROMPTS[place % len(PROMPTS)] for place in places])
        timesteps = self._timesteps[list(places)]
        origins = self._origins.expand(len(places), 4)
        predicted = self._model.predict(latents + noise, timesteps, told, origins)
        return F.mse_loss(predicted.float(), noise) * len(places) / self._batch

    def _latents(self, place: int) -> torch.Tensor:
        mean, std = self._cached[place]
        if not self._way.cached_latents:
            mean, std = self._model.encode_images(self._pictures[place][None])
        return mean + std * torch.randn(mean.shape, generator=self._random).to(mean.device)


@torch.no_grad()
def _put_back(table: torch.Tensor, first: torch.Tensor) -> None:
    others = torch.ones(len(table), dtype=torch.bool, device=table.device)
    others[-VECTORS:] = False
    table[others] = first[others]


def _learn_whole_tables(model: StableDiffusion) -> list[torch.nn.Parameter]:
    """Let each text encoder have one table of all words, which is learnt; return the tables."""
    tables = []
    for encoder in model.encoders:
        table = encoder.module.get_input_embeddings().merged()
        encoder.module.set_input_embeddings(table)
        tables.append(table.weight.requires_grad_(True))
    return tables


if __name__ == "__main__":
    main()
