"""What a grid is to make, by its YAML."""

import pytest

from detsd.config import ConfigError, GridConfig, read
from detsd.sweep import identity, wanted_images


def wanted(slots=1, **hparams):
    return wanted_images(read(GridConfig, hparams), slots)


def test_a_point_counts_its_seeds_up_over_batches_and_slots():
    call = {"prompt": "a star", "guidance_scale": 6}
    images = wanted(2, call_kwargs=call, batch_size=2, num_batches=5, main_process_generator_seed=7)
    assert [one.seed for one in images] == list(range(7, 27))
    assert {one.guidance_scale for one in images} == {6.0}
    assert {one.cell for one in images} == {0}
    more = wanted(2, call_kwargs={**call, "num_images_per_prompt": 3}, batch_size=2)
    assert len({one.seed for one in more}) == 12


def test_a_sweep_combines_every_value_with_every_other_and_a_cell_has_its_seeds():
    axes = {
        "prompt": ["a {concept} here", "plain"],
        "concept": ["star", "moon"],
        "guidance_scale": [3, 7],
        "steps": [5, 10],
        "seed": {"first": 4, "count": 3},
    }
    images = wanted(sweep=axes)
    assert len(images) == 3 * 2 * 2 * 3
    assert [one.seed for one in images[:3]] == [4, 5, 6]
    assert {one.prompt for one in images} == {"a star here", "a moon here", "plain"}
    cells = [one._replace(cell=0, seed=0) for one in images]
    assert len(set(cells)) == 12 == images[-1].cell + 1


@pytest.mark.parametrize(
    "hparams, said",
    [
        ({}, "sweep: either call_kwargs or sweep is wanted, neither is there"),
        ({"sweep": {"prompt": "a {concept}"}}, "sweep.concept: words for the {concept}"),
        ({"sweep": {"prompt": "a", "concept": "b"}}, "sweep.concept: no prompt has a {concept}"),
        ({"sweep": {"prompt": ["a", "a"]}}, "sweep.prompt: 'a' is in it twice"),
        ({"sweep": {"prompt": "a", "seed": {"frist": 1}}}, "sweep.seed: a list, or the numbers"),
        ({"sweep": {"prompt": "a", "sed": 1}}, "sweep.sed: unknown; did you mean seed?"),
        ({"sweep": {"prompt": "a"}, "num_batches": 3}, "num_batches: is for call_kwargs"),
        ({"call_kwargs": {"prompt": "a"}, "batch_size": "auto"}, "batch_size: a number is wanted"),
        ({"call_kwargs": {"prompt": "a", "promt": "b"}}, "call_kwargs.promt: unknown; did you"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_key(hparams, said):
    with pytest.raises(ConfigError) as raised:
        wanted(**hparams)
    assert said in str(raised.value)


def test_an_image_is_known_by_what_it_follows_from_and_not_by_its_place():
    first, *_, last = wanted(sweep={"prompt": ["a", "b"], "seed": [1, 2]})
    alone = wanted(sweep={"prompt": "b", "seed": 2})[0]
    names = {"det-logo": "abc"}
    assert identity(last, names, {}) == identity(alone, names, {})
    assert identity(last, names, {}) != identity(first, names, {})
    assert identity(last, names, {}) != identity(last, {"det-logo": "abd"}, {})
    assert identity(last, names, {}) != identity(last, names, {"model": "other"})
