"""Which example, variant, caption, timestep and noise each sample of each step gets."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from detsd.data import Example, Latents, stream

VALIDATION_SAMPLES = 16
# The same whatever the run's seed, so that two runs of a config can be compared.
VALIDATION_SEED = 0


class Batch(NamedTuple):
    """Samples that go through the model at once."""

    latents: torch.Tensor  # (samples, channels, height, width)
    noise: torch.Tensor
    timesteps: torch.Tensor  # (samples,)
    captions: tuple[str, ...]
    origins: torch.Tensor  # (samples, 4): see images.Prepared
    weights: torch.Tensor  # (samples,): of each in the mean over the effective batch
    share: float  # of this batch in the effective one


class Sample(NamedTuple):
    """One row of a Batch."""

    latents: torch.Tensor
    noise: torch.Tensor
    timestep: int
    caption: str
    origin: torch.Tensor
    weight: float


def indices_at(step: int, batch_size: int, num_examples: int, seed: int) -> list[int]:
    """Return the examples of a step's slots; an epoch holds every example once."""
    slots = range(step * batch_size, (step + 1) * batch_size)
    return [_order(seed, slot // num_examples, num_examples)[slot % num_examples] for slot in slots]


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, num_examples: int) -> list[int]:
    return torch.randperm(num_examples, generator=stream(seed, epoch, "order")).tolist()


class Batches:
    """The samples of every step as functions of (seed, slot); `batch_size` is the effective one."""

    def __init__(
        self,
        examples: Sequence[Example],
        latents: Latents,
        *,
        batch_size: int,
        micro_batch_size: int,
        num_timesteps: int,
        flip_p: float,
        seed: int,
    ):
        self.examples = examples
        self.latents = latents
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self._num_timesteps = num_timesteps
        self._flip_p = flip_p
        self._seed = seed

    def micro_batches(self, step: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield this process's part of the step's batch, a piece that fits at a time."""
        indices = indices_at(step, self.batch_size, len(self.examples), self._seed)
        mine = range(self.batch_size * rank // size, self.batch_size * (rank + 1) // size)
        for start in range(mine.start, mine.stop, self.micro_batch_size):
            places = mine[start - mine.start :][: self.micro_batch_size]
            yield self._collate([self._draw(step, place, indices[place]) for place in places])

    def validation(self, rank: int, size: int) -> Iterator[Batch]:
        """Yield this process's part of a fixed set of samples, spread over images and timesteps."""
        mine = range(VALIDATION_SAMPLES)[rank::size]
        for start in range(0, len(mine), self.micro_batch_size):
            yield self._collate(
                [self._fixed(number) for number in mine[start : start + self.micro_batch_size]]
            )

    def halve(self) -> None:
        """Make the pieces smaller; from one sample they cannot be."""
        self.micro_batch_size = max(1, self.micro_batch_size // 2)

    def _draw(self, step: int, place: int, index: int) -> Sample:
        slot = step * self.batch_size + place
        example = self.examples[index]
        variant = self._variant(slot)
        mean, std = self.latents.mean[index, variant], self.latents.std[index, variant]
        # One timestep from each of batch_size equal ranges: less noise in the loss than with free
        # draws, and still every timestep equally often.
        within = torch.rand((), generator=stream(self._seed, slot, "timestep")).item()
        timestep = int((place + within) / self.batch_size * self._num_timesteps)
        choice = self._choose(slot, "caption", len(example.captions))
        return Sample(
            mean + std * self._normal(mean, slot, "latent"),
            self._normal(mean, slot, "noise"),
            min(timestep, self._num_timesteps - 1),
            example.captions[choice],
            self.latents.origins[index, variant],
            example.weight / self.batch_size,
        )

    def _fixed(self, number: int) -> Sample:
        index = number * len(self.examples) // VALIDATION_SAMPLES
        mean = self.latents.mean[index, 0]
        generator = stream(VALIDATION_SEED, number, "validation")
        # 7 steps through all 16 ranges in an order that does not follow the images.
        timestep = (number * 7 % VALIDATION_SAMPLES + 0.5) / VALIDATION_SAMPLES
        return Sample(
            mean,
            torch.randn(mean.shape, generator=generator).to(mean.device),
            int(timestep * self._num_timesteps),
            self.examples[index].captions[0],
            self.latents.origins[index, 0],
            1 / VALIDATION_SAMPLES,
        )

    def _variant(self, slot: int) -> int:
        """Choose a crop, and whether it is mirrored: the second half of the variants is."""
        crops = self.latents.mean.shape[1] // (2 if self._flip_p else 1)
        flip = torch.rand((), generator=stream(self._seed, slot, "flip")).item() < self._flip_p
        return self._choose(slot, "crop", crops) + crops * flip

    def _choose(self, slot: int, purpose: str, count: int) -> int:
        return int(torch.randint(count, (), generator=stream(self._seed, slot, purpose)))

    def _normal(self, like: torch.Tensor, slot: int, purpose: str) -> torch.Tensor:
        # Drawn on the CPU: the same numbers on every device.
        generator = stream(self._seed, slot, purpose)
        return torch.randn(like.shape, generator=generator).to(like.device, non_blocking=True)

    def _collate(self, samples: list[Sample]) -> Batch:
        latents, noise, timesteps, captions, origins, weights = zip(*samples, strict=True)
        device = self.latents.mean.device
        return Batch(
            torch.stack(latents),
            torch.stack(noise),
            torch.tensor(timesteps, device=device),
            captions,
            torch.stack(origins),
            torch.tensor(weights, device=device),
            len(samples) / self.batch_size,
        )
