"""A grid on a cluster: each image once, whatever happens to the trial, and its scores."""

from pathlib import Path
from typing import Any

import pytest

from detsd.imagestore import read_records
from tests.cluster.client import ranking
from tests.cluster.containers import PATIENCE
from tests.cluster.records import COMPLETED, QUEUED


@pytest.fixture
def grid(models, scorer_folder) -> dict[str, Any]:
    """24 images of one prompt, a batch of two at a time, and what they score."""
    return {
        "pipeline": {"pretrained_model_name_or_path": str(models["sd1"])},
        "sweep": {"prompt": "a", "steps": 2, "seed": {"first": 1, "count": 24}},
        "scorer_name_or_path": str(scorer_folder),
        "batch_size": 2,
        "save_freq": 2,
    }


SCORED = {
    "searcher": {"name": "single", "metric": "prompt_adherence", "smaller_is_better": False},
    "resources": {"slots_per_trial": 2},
    "checkpoint_storage": {"save_trial_latest": 1000},
}


def kept(folder: Path) -> list[int]:
    """Return the seeds of the images that are there, file and line."""
    records = read_records(folder / "images.jsonl")
    assert len(list((folder / "images").iterdir())) == len(records)
    return sorted(record["seed"] for record in records)


def test_a_preempted_grid_makes_each_image_once_on_other_slots_too(
    master, agent, submit, grid, det, tmp_path
):
    trial = submit(grid, "detsd.grid", **SCORED)
    container = agent.start(trial, slots=1)
    with master.changed:
        assert master.changed.wait_for(lambda: trial.checkpoints, PATIENCE), container.log
    master.preempt(trial)
    assert agent.finish(container) == 0
    assert trial.state == QUEUED and container.allocation.acknowledged
    assert container.allocation.seconds_to_acknowledge < 5
    made = trial.latest["metadata"]["steps_completed"]
    assert 4 <= made < 24
    container = agent.run(trial, slots=2)
    assert trial.state == COMPLETED
    assert f"24 images, {24 - made} of them to be made" in container.log
    assert trial.metrics("validation")[24]["prompt_adherence"]
    ((_, best),) = ranking(trial)
    assert best == trial.latest["uuid"]
    assert f"python -m detsd gather {best}" in container.log

    # Each image's file lies in one checkpoint alone, and all can be had together.
    files = [Path(name).name for one in trial.checkpoints for name in one["resources"]]
    files = [name for name in files if name.endswith(".png")]
    assert len(files) == len(set(files)) == 24
    det.detsd("gather", best, "--out", str(tmp_path / "gathered"))
    assert kept(tmp_path / "gathered") == list(range(1, 25))

    # Started again, it makes nothing.
    before = len(trial.checkpoints), len(trial.table)
    master.go_on(trial.experiment, {})
    assert "nothing is left to do" in agent.run(trial, slots=2).log
    assert (len(trial.checkpoints), len(trial.table)) == before


def test_a_test_of_a_grid_makes_a_batch_a_slot_and_acknowledges_nothing(
    master, agent, submit, grid
):
    config = SCORED | {"searcher": {**SCORED["searcher"], "max_length": {"batches": 1}}}
    config["checkpoint_storage"] = {"save_trial_latest": 0}
    trial = submit(grid, "detsd.grid", **config)
    container = agent.start(trial, slots=2)
    master.preempt(trial)
    assert agent.finish(container) == 0
    assert trial.state == COMPLETED and not container.allocation.acknowledged
    assert kept(master.storage / trial.latest["uuid"]) == [1, 2, 3, 4]
    assert trial.metrics("validation").keys() == {4}


def test_a_grids_last_checkpoint_has_all_images_where_the_others_are_deleted(
    master, agent, submit, grid
):
    grid["sweep"]["seed"] = [1, 2, 3, 4]
    grid |= {"batch_size": 1, "save_freq": 1}
    few = SCORED | {"checkpoint_storage": {"save_trial_latest": 1}}
    trial = submit(grid, "detsd.grid", **few)
    agent.run(trial, slots=2)
    assert [one["metadata"]["steps_completed"] for one in trial.checkpoints] == [2, 4]
    assert trial.metrics("validation").keys() == {4}
    more = {"hyperparameters": {"sweep": {"seed": {"first": 1, "count": 6}}}}
    master.go_on(trial.experiment, more)
    said = agent.run(trial, slots=2).log
    assert "6 images, 2 of them to be made" in said
    folder = master.storage / trial.latest["uuid"]
    assert (folder / "index.html").is_file()
    assert kept(folder) == [1, 2, 3, 4, 5, 6]


def test_det_create_makes_a_trial_of_each_point(master, agent, det, models):
    point = "{prompt: a, num_inference_steps: 2, guidance_scale: {type: categorical, vals: [3, 6]}}"
    changes = {
        "searcher": "{name: grid, metric: none}",
        "max_restarts": "0",
        "hyperparameters.sweep": "null",
        "hyperparameters.call_kwargs": point,
        "hyperparameters.scorer_name_or_path": "null",
        "hyperparameters.scorer_img_dirs": "[]",
        "hyperparameters.local_checkpoint_paths": "[]",
        "hyperparameters.pipeline.pretrained_model_name_or_path": str(models["sd1"]),
    }
    changes = [f"--config={key}={value}" for key, value in changes.items()]
    det("e", "create", "generate_grid.yaml", ".", *changes)
    (experiment,) = master.experiments.values()
    done = agent.run_all(experiment, slots=1)
    assert experiment.state == COMPLETED, done[0].log
    scales = [trial.hparams["call_kwargs"]["guidance_scale"] for trial in experiment.trials]
    assert scales == [6, 3]  # as the master has it: from the list's end
    for trial, scale in zip(experiment.trials, scales, strict=True):
        records = read_records(master.storage / trial.latest["uuid"] / "images.jsonl")
        assert [record["guidance_scale"] for record in records] == [scale, scale]
        assert trial.metrics("validation") == {}
