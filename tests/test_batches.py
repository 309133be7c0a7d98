"""Which sample each slot gets, however processes and micro-batches split the batch."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from detsd.batches import Batch, Batches, ClassSamples, indices_at
from detsd.config import ConceptsConfig, read
from detsd.data import Example, Latents, cache_latents, read_examples

TIMESTEPS = 1000


def batches(examples: int = 5, variants: int = 1, **settings: Any) -> Batches:
    numbers = torch.Generator().manual_seed(0)
    mean = torch.randn(examples, variants, 4, 2, 2, generator=numbers)
    origins = torch.arange(examples * variants * 4).view(examples, variants, 4)
    captions = [tuple(f"{number}/{place}" for place in range(3)) for number in range(examples)]
    return Batches(
        [Example(Path(f"{number}.png"), captions[number]) for number in range(examples)],
        Latents(mean, mean.abs(), origins),
        **{
            "batch_size": 6,
            "micro_batch_size": 1000,
            "num_timesteps": TIMESTEPS,
            "flip_p": 0.0,
            "seed": 1,
            **settings,
        },
    )


def samples(found: list[Batch]) -> list[tuple[Any, ...]]:
    """Return the samples of some batches, as rows that can be compared exactly."""
    return [
        (latent.flatten().tolist(), noise.flatten().tolist(), step.item(), caption, origin.tolist())
        for batch in found
        for latent, noise, step, caption, origin in zip(*batch[:5], strict=True)
    ]


def collect(of: Batches, step: int, size: int = 1) -> list[Batch]:
    return [batch for rank in range(size) for batch in of.micro_batches(step, rank, size)]


@pytest.mark.parametrize(("batch_size", "examples"), [(4, 5), (5, 5), (7, 3), (1, 4), (12, 1)])
def test_an_epoch_holds_every_example_once(batch_size: int, examples: int) -> None:
    slots = [
        index
        for step in range(examples * 3)
        for index in indices_at(step, batch_size, examples, seed=1)
    ]
    epochs = [slots[start : start + examples] for start in range(0, len(slots), examples)]
    assert len(epochs) == 3 * batch_size
    assert all(sorted(epoch) == list(range(examples)) for epoch in epochs)


def test_the_order_changes_with_the_epoch_and_the_seed() -> None:
    orders = [tuple(indices_at(step, 50, 50, seed)) for step in range(3) for seed in range(3)]
    assert len(set(orders)) == 9
    assert indices_at(2, 50, 50, 1) == indices_at(2, 50, 50, 1)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_the_samples_do_not_depend_on_how_they_are_split(size: int, micro_batch_size: int) -> None:
    whole = collect(batches(variants=4, flip_p=0.5), step=3)
    split = collect(batches(variants=4, flip_p=0.5, micro_batch_size=micro_batch_size), 3, size)
    assert samples(split) == samples(whole)
    assert max(len(batch.captions) for batch in split) <= micro_batch_size
    assert sum(batch.weights.sum().item() for batch in split) == pytest.approx(1)
    assert sum(batch.share for batch in split) == pytest.approx(1)


def test_processes_differ_by_one_sample_at_most() -> None:
    counts = [
        sum(len(batch.captions) for batch in batches(batch_size=6).micro_batches(0, rank, 4))
        for rank in range(4)
    ]
    assert sum(counts) == 6
    assert max(counts) - min(counts) <= 1


def test_an_examples_weight_is_its_part_of_the_mean() -> None:
    some = batches(batch_size=5)
    some.examples = [example._replace(weight=2.0) for example in some.examples]
    (batch,) = collect(some, 0)
    assert batch.weights.tolist() == pytest.approx([2 / 5] * 5)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_each_of_equal_ranges_gets_one_timestep(batch_size: int) -> None:
    some = batches(batch_size=batch_size)
    steps = torch.stack([collect(some, step)[0].timesteps for step in range(50)])  # (50, batch)
    places = torch.arange(batch_size)
    assert (steps >= places * TIMESTEPS // batch_size).all()
    assert (steps < torch.ceil((places + 1) * TIMESTEPS / batch_size)).all()
    assert len(steps[:, 0].unique()) > 30


def test_timesteps_are_drawn_from_all_there_are() -> None:
    some = batches(batch_size=1, num_timesteps=4)
    drawn = Counter(collect(some, step)[0].timesteps.item() for step in range(200))
    assert set(drawn) == {0, 1, 2, 3}
    assert min(drawn.values()) > 25


def origins(of: Batches, steps: int) -> Counter[int]:
    """Count the variants used; an origin's first number says which it is."""
    found = [batch for step in range(steps) for batch in collect(of, step)]
    return Counter(int(origin[0]) // 4 for batch in found for origin in batch.origins)


def test_a_flip_is_drawn_anew_at_each_use() -> None:
    drawn = origins(batches(examples=1, variants=2, flip_p=0.25), steps=100)
    assert drawn.total() == 600
    assert 100 < drawn[1] < 200


@pytest.mark.parametrize(("flip_p", "seen"), [(0.5, {0, 1, 2, 3, 4, 5}), (1.0, {3, 4, 5})])
def test_every_crop_is_used_flipped_or_not(flip_p: float, seen: set[int]) -> None:
    assert set(origins(batches(examples=1, variants=6, flip_p=flip_p), steps=30)) == seen


def test_every_caption_is_used() -> None:
    found = [batch for step in range(30) for batch in collect(batches(examples=2), step)]
    assert {caption for batch in found for caption in batch.captions} == {
        f"{number}/{place}" for number in range(2) for place in range(3)
    }


def test_latents_are_drawn_from_the_encoders_mean_and_std() -> None:
    some = batches(examples=1, batch_size=500)
    (batch,) = collect(some, 0)
    mean, std = some.latents.mean[0, 0], some.latents.std[0, 0]
    assert torch.allclose(batch.latents.mean(0), mean, atol=0.3)
    assert torch.allclose(batch.latents.std(0), std, rtol=0.2)
    normal = (batch.latents - mean) / std
    assert abs(torch.corrcoef(torch.stack([normal.flatten(), batch.noise.flatten()]))[0, 1]) < 0.1


def test_another_seed_gives_other_samples() -> None:
    first, other = (samples(collect(batches(seed=seed), 0)) for seed in (1, 2))
    assert all(sample not in other for sample in first)


@pytest.mark.parametrize("examples", [1, 5, 40])
def test_the_validation_set_covers_pictures_and_timesteps_evenly(examples: int) -> None:
    (batch,) = batches(examples=examples, micro_batch_size=16).validation(0, 1)
    assert sorted((batch.timesteps * 16 // TIMESTEPS).tolist()) == list(range(16))
    assert len(set(batch.captions)) == min(examples, 16)
    assert batch.weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("size", [1, 3, 20])
def test_the_validation_set_is_the_same_for_every_seed_and_split(size: int) -> None:
    (whole,) = batches(seed=1, micro_batch_size=16).validation(0, 1)
    split = [
        batch
        for rank in range(size)
        for batch in batches(seed=2, micro_batch_size=3).validation(rank, size)
    ]
    assert sorted(map(repr, samples(split))) == sorted(map(repr, samples([whole])))


@pytest.mark.parametrize("crops", [{}, {"crop_scale": [0.5, 0.9], "crop_variants": 2}])
def test_the_validation_pictures_are_the_same_for_every_seed(pictures: Path, crops: Any) -> None:
    entries = {
        "concept_strs": "det-logo",
        "initializer_strs": "brain logo",
        "learnable_properties": "object",
        "img_dirs": str(pictures),
    }
    config = read(ConceptsConfig, {**entries, **crops})
    examples = read_examples(config)
    found = []
    for seed in (1, 2):
        latents = cache_latents(examples, lambda p: (p, p), config, 16)
        some = Batches(
            examples,
            latents,
            batch_size=1,
            micro_batch_size=16,
            num_timesteps=TIMESTEPS,
            flip_p=0.0,
            seed=seed,
        )
        found.append(samples(list(some.validation(0, 1))))
    assert found[0] == found[1]


def test_halving_the_pieces_ends_at_one() -> None:
    some = batches(micro_batch_size=5)
    sizes = []
    for _ in range(4):
        some.halve()
        sizes.append(some.micro_batch_size)
    assert sizes == [2, 1, 1, 1]


def prior(pictures: int | None, weight: float = 1.0) -> ClassSamples:
    if pictures is None:
        return ClassSamples(("a class", "its class"), weight, None, "")
    numbers = torch.Generator().manual_seed(1)
    mean = torch.randn(pictures, 1, 4, 2, 2, generator=numbers)
    latents = Latents(mean, mean.abs(), torch.zeros(pictures, 1, 4, dtype=torch.long))
    captions = tuple(f"class {number}" for number in range(pictures))
    return ClassSamples(captions, weight, latents, "")


def apart(found: list[Batch]) -> tuple[list[Any], list[Any]]:
    """Return the samples of the thing and those of its class."""
    rows = samples(found)
    of_class = [flag for batch in found for flag in batch.of_class.tolist()]
    chosen: tuple[list[Any], list[Any]] = ([], [])
    for row, flag in zip(rows, of_class, strict=True):
        chosen[flag].append(row)
    return chosen


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4, 1000])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("pictures", [None, 4])
def test_a_prior_adds_a_sample_of_the_class_to_each_and_changes_none(
    pictures: int | None, size: int, micro_batch_size: int
) -> None:
    with_prior = batches(prior=prior(pictures, 0.5), micro_batch_size=micro_batch_size)
    for step in (0, 3):
        own, of_class = apart(collect(with_prior, step, size))
        assert own == samples(collect(batches(), step))
        assert of_class == apart(collect(batches(prior=prior(pictures)), step))[1]
        found = collect(with_prior, step, size)
        weights = torch.cat([batch.weights for batch in found])
        flags = torch.cat([batch.of_class for batch in found])
        assert weights[flags].sum().item() == pytest.approx(0.5)
        assert weights[~flags].sum().item() == pytest.approx(1)
        assert sum(batch.share for batch in found) == pytest.approx(1)
        assert max(len(batch.captions) for batch in found) <= micro_batch_size


def test_pictures_of_the_class_have_draws_of_their_own() -> None:
    own, of_class = apart(collect(batches(prior=prior(4)), 0))
    noises = {tuple(row[1]) for row in own + of_class}
    assert len(noises) == 12
    shown = [
        row[3] for step in range(2) for row in apart(collect(batches(prior=prior(4)), step))[1]
    ]
    assert sorted(shown) == sorted([f"class {number}" for number in range(4)] * 3)
    slots = [
        row[0] for step in range(2) for row in apart(collect(batches(prior=prior(4)), step))[1]
    ]
    assert len({tuple(latent) for latent in slots}) == 12  # a fresh sample of each picture


def test_without_pictures_the_class_is_another_name_for_the_same_noisy_latent() -> None:
    own, of_class = apart(collect(batches(prior=prior(None)), 0))
    assert [row[:3] for row in own] == [row[:3] for row in of_class]
    assert {row[3] for row in of_class} == {"a class", "its class"}
