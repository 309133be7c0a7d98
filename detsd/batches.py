"""Which example, variant, caption, timestep and noise each sample of each step gets."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import torch

from detsd.data import Example, Latents, stream
from detsd.sending import send

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
    of_class: torch.Tensor  # (samples,): whether it is there for the prior's sake
    class_rows: tuple[int, ...]  # those which are, told without asking the device
    share: float  # of this batch in the effective one
    slot: int  # its first sample's


class Sample(NamedTuple):
    """One row of a Batch."""

    latents: torch.Tensor
    noise: torch.Tensor
    timestep: int
    caption: str
    origin: torch.Tensor
    weight: float
    of_class: bool = False


class ClassSamples(NamedTuple):
    """What the model is not to forget: a sample of the class for each of the concept."""

    captions: tuple[str, ...]  # of each picture; of the concept's own pictures any of them
    weight: float
    latents: Latents | None  # of pictures of the class; without any, the concept's own are taken
    follows: str  # a name for what these follow from


def indices_at(
    step: int, batch_size: int, num_examples: int, seed: int, purpose: str = "order"
) -> list[int]:
    """Return the examples of a step's slots; an epoch holds every example once."""
    slots = range(step * batch_size, (step + 1) * batch_size)
    return [
        _order(seed, slot // num_examples, num_examples, purpose)[slot % num_examples]
        for slot in slots
    ]


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, num_examples: int, purpose: str) -> list[int]:
    return torch.randperm(num_examples, generator=stream(seed, epoch, purpose)).tolist()


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
        prior: ClassSamples | None = None,
    ):
        self.examples = examples
        self.latents = latents
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self._num_timesteps = num_timesteps
        self._flip_p = flip_p
        self._seed = seed
        self.prior = prior

    def micro_batches(self, step: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield this process's part of the step's batch, a piece that fits at a time."""
        mine = range(self.batch_size * rank // size, self.batch_size * (rank + 1) // size)
        each = 1 if self.prior is None else 2
        samples = self._samples(step, mine)
        for start in range(0, len(mine) * each, self.micro_batch_size):
            slot = step * self.batch_size + mine[start // each]
            yield self._collate(list(islice(samples, self.micro_batch_size)), slot)

    def validation(self, rank: int, size: int) -> Iterator[Batch]:
        """Yield this process's part of a fixed set of samples, spread over images and timesteps."""
        mine = range(VALIDATION_SAMPLES)[rank::size]
        for start in range(0, len(mine), self.micro_batch_size):
            yield self._collate(
                [self._fixed(number) for number in mine[start : start + self.micro_batch_size]],
                slot=0,
            )

    def halve(self) -> None:
        """Make the pieces smaller; from one sample they cannot be."""
        self.micro_batch_size = max(1, self.micro_batch_size // 2)

    def _samples(self, step: int, places: range) -> Iterator[Sample]:
        """Yield the sample of each place, and after it the one of the class, if there is any."""
        indices = indices_at(step, self.batch_size, len(self.examples), self._seed)
        of_class: list[int] = []
        if self.prior is not None and self.prior.latents is not None:
            count = len(self.prior.latents.mean)
            of_class = indices_at(step, self.batch_size, count, self._seed, "prior order")
        for place in places:
            sample = self._draw(step, place, indices[place])
            yield sample
            if self.prior is not None and not of_class:
                yield self._by_class(self.prior, sample, step * self.batch_size + place)
            elif self.prior is not None:
                yield self._draw_class(self.prior, step, place, of_class[place])

    def _draw(self, step: int, place: int, index: int) -> Sample:
        slot = step * self.batch_size + place
        example = self.examples[index]
        variant = self._variant(slot)
        choice = self._choose(slot, "caption", len(example.captions))
        return Sample(
            *self._noisy(self.latents, (index, variant), slot, ""),
            self._timestep(slot, "timestep"),
            example.captions[choice],
            self.latents.origins[index, variant],
            example.weight / self.batch_size,
        )

    def _by_class(self, prior: ClassSamples, own: Sample, slot: int) -> Sample:
        """Return the very same noisy latent, by the name of its class."""
        weight = prior.weight / self.batch_size
        choice = self._choose(slot, "prior caption", len(prior.captions))
        return own._replace(caption=prior.captions[choice], weight=weight, of_class=True)

    def _draw_class(self, prior: ClassSamples, step: int, place: int, index: int) -> Sample:
        assert prior.latents is not None
        slot = step * self.batch_size + place
        return Sample(
            *self._noisy(prior.latents, (index, 0), slot, "prior "),
            self._timestep(slot, "prior timestep"),
            prior.captions[index],
            prior.latents.origins[index, 0],
            prior.weight / self.batch_size,
            of_class=True,
        )

    def _noisy(
        self, latents: Latents, row: tuple[int, int], slot: int, purpose: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = latents.mean[row], latents.std[row]
        drawn = mean + std * self._normal(mean, slot, f"{purpose}latent")
        return drawn, self._normal(mean, slot, f"{purpose}noise")

    def _timestep(self, slot: int, purpose: str) -> int:
        # One timestep from each of batch_size equal ranges: less noise in the loss than with free
        # draws, and still every timestep equally often.
        within = torch.rand((), generator=stream(self._seed, slot, purpose)).item()
        place = slot % self.batch_size
        timestep = int((place + within) / self.batch_size * self._num_timesteps)
        return min(timestep, self._num_timesteps - 1)

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
        return send(torch.randn(like.shape, generator=generator), like.device)

    def _collate(self, samples: list[Sample], slot: int) -> Batch:
        latents, noise, timesteps, captions, origins, weights, of_class = zip(*samples, strict=True)
        device = self.latents.mean.device
        return Batch(
            torch.stack(latents),
            torch.stack(noise),
            send(timesteps, device),
            captions,
            torch.stack(origins),
            send(weights, device),
            send(of_class, device),
            tuple(row for row, there in enumerate(of_class) if there),
            of_class.count(False) / self.batch_size,
            slot,
        )
