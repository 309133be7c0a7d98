"""What is added up on paper: the parts, and from where on one of them is in the way."""

import json

import pytest

from benchmarks.paper import (
    BLOCK,
    Parts,
    grid_cost,
    images_listed,
    limits,
    of_training,
    run_cost,
)

PARTS = Parts()


def test_a_run_alone_is_its_steps_and_nothing_is_exchanged():
    parts = Parts(start=10, step=0.5, sample=0.25, write=1, checkpoint=100, upload=100)
    cost = run_cost(parts, 1, steps=20, batch=4, checkpoints=3)
    assert cost.seconds == pytest.approx(10 + 20 * (0.5 + 4 * 0.25) + 3 * (1 + 1))
    assert cost.hours == pytest.approx(cost.seconds / 3600)


def test_more_gpus_than_samples_make_a_run_no_faster():
    seconds = [run_cost(PARTS, gpus, 500, 4, 1).seconds for gpus in (1, 4, 8, 64)]
    assert seconds[0] > seconds[1] < seconds[2] < seconds[3]


def test_where_the_chief_is_in_the_way_a_grid_takes_twice_as_long_as_its_drawing():
    parts = Parts(start=1e-9, sheets=1e-9, entry=0, listing=0, upload=1e30)
    said = dict(limits(parts, 4, 10**6, 500))
    gpus = said["a grid: the chief takes as long to gather and keep a block as to draw one"]
    cost = grid_cost(parts, round(gpus), 10**6)
    assert cost.waiting == pytest.approx(0.5, abs=0.01)


def test_each_checkpoint_lists_all_images_that_are_there():
    count, checkpoints = 12 * BLOCK, 3
    there = [count * (number + 1) / checkpoints for number in range(checkpoints)]
    assert images_listed(count, checkpoints) == sum(there)


def test_a_line_through_two_batches_tells_a_step_from_its_samples(tmp_path):
    files = []
    for batch, step in ((4, 0.5), (16, 1.1)):
        cost = {"step": step, "first_step": 8 + step}
        figures = {"asked": {"batch": str(batch)}, "device": "cpu", "costs": {"ours": [cost] * 2}}
        files.append(tmp_path / f"{batch}.json")
        files[-1].write_text(json.dumps(figures))
    found = of_training(files)
    assert {name: round(value, 9) for name, (value, _) in found.items()} == {
        "start": 8.0,
        "step": 0.3,
        "sample": 0.05,
    }
    assert {source for _, source in found.values()} == {"measured, cpu"}
