"""What a command asks for: changes of a YAML, the points of a search, a folder for each."""

from pathlib import Path
from typing import Any

import pytest

from detsd.config import ConfigError
from detsd.plan import apply_change, make_plan, trial_names
from tests.conftest import ROOT

RATE = {"type": "log", "base": 10, "minval": -4, "maxval": -2}


@pytest.fixture
def space(experiment: dict[str, Any]) -> dict[str, Any]:
    """A search over two hyperparameters, as a cluster would make it."""
    experiment["searcher"] = {
        **{"name": "adaptive_asha", "metric": "loss", "max_trials": 3},
        **{"max_time": 6, "time_metric": "steps"},
    }
    experiment["hyperparameters"]["training"]["learning_rate"] = RATE
    norms = {"type": "categorical", "vals": ["free", "vocabulary"]}
    experiment["hyperparameters"]["training"]["embedding_norm"] = norms
    return experiment


def test_changes_are_read_as_yaml_and_may_leave_hyperparameters_out():
    raw: dict = {"hyperparameters": {"training": {"num_sgd_steps": 1}}, "resources": None}
    apply_change(raw, "training.num_sgd_steps=5e-4")
    apply_change(raw, "hyperparameters.concepts.img_dirs=[a, b]")
    apply_change(raw, "resources.slots_per_trial=3")
    assert raw == {
        "hyperparameters": {
            "training": {"num_sgd_steps": 5e-4},
            "concepts": {"img_dirs": ["a", "b"]},
        },
        "resources": {"slots_per_trial": 3},
    }
    for broken in ("training", "=1", "training.num_sgd_steps.deep=1", "training.x=[1"):
        with pytest.raises(ConfigError, match="--set"):
            apply_change(raw, broken)


def test_a_search_that_needs_a_master_says_how_to_search_here(cli, space):
    file = cli.write(space)
    with pytest.raises(ConfigError, match=r"adaptive_asha needs a cluster; --set searcher\.name=r"):
        make_plan(file, [], None)
    assert len(make_plan(file, ["searcher.name=random"], None).points) == 3


def test_a_random_search_needs_to_know_how_many_points(cli, space):
    del space["searcher"]["max_trials"]
    file = cli.write(space)
    with pytest.raises(ConfigError, match=r"searcher\.max_trials: missing"):
        make_plan(file, ["searcher.name=random"], None)
    for count in ("0", "many"):
        with pytest.raises(ConfigError, match=r"searcher\.max_trials: "):
            make_plan(file, ["searcher.name=random", f"searcher.max_trials={count}"], None)


def test_more_trials_and_more_steps_change_no_older_trial_and_another_seed_all(cli, space):
    file = cli.write(space)
    random = ["searcher.name=random"]
    few, many, longer, other = (
        make_plan(file, [*random, *changes], None)
        for changes in (
            ["searcher.max_trials=1"],
            ["searcher.max_trials=20"],
            ["training.num_sgd_steps=100"],
            ["reproducibility.experiment_seed=1"],
        )
    )
    assert many.points[:1] == few.points
    assert many.folders[:1] == few.folders  # even one point has a folder of its own
    assert many.folders[:3] == longer.folders
    assert len(set(many.folders)) == 20
    assert not set(other.folders) & set(many.folders)
    assert (
        other.points == make_plan(file, [*random, "reproducibility.experiment_seed=1"], None).points
    )


def test_a_trial_is_named_by_its_number_and_what_was_drawn():
    varied = [
        {"training.learning_rate": 0.000123456, "concepts.num_vectors": 4},
        {"training.learning_rate": 1e-5, "concepts.num_vectors": [2, 3]},
        {},
    ]
    assert trial_names(varied) == [
        "001-learning_rate=0.0001235,num_vectors=4",
        "002-learning_rate=1e-05,num_vectors=-2,-3-",
        "003",
    ]


def test_every_point_is_checked_before_the_first_is_run(cli, space):
    file = cli.write(space)
    changes = ["searcher.name=random", "training.embedding_norm.vals=[free, tight]"]
    with pytest.raises(ConfigError, match=r"training\.embedding_norm: .*tight"):
        make_plan(file, [*changes, "searcher.max_trials=20"], None)


def test_a_plan_knows_what_varies_and_whether_its_trials_are_to_be_compared(cli, space):
    plan = make_plan(cli.write(space), ["searcher.name=random"], None)
    assert plan.is_compared
    assert [list(one) for one in plan.varied] == 3 * [
        ["training.embedding_norm", "training.learning_rate"]
    ]
    for one, point in zip(plan.varied, plan.points, strict=True):
        assert one["training.learning_rate"] == point["training"]["learning_rate"]
    alone = make_plan(cli.write(space), ["searcher.name=random", "searcher.max_trials=1"], None)
    assert not alone.is_compared
    generation = {
        "entrypoint": "python3 -m detsd.grid",
        "searcher": {"name": "grid", "metric": "none"},
        "hyperparameters": {
            "call_kwargs": {"prompt": {"type": "categorical", "vals": ["a", "b"]}},
            "uuids": [],
        },
    }
    grid = make_plan(cli.write(generation), [], None)
    assert len(grid.points) == 2
    assert not grid.is_compared


def test_a_metric_that_nothing_measures_is_refused_before_a_search(monkeypatch):
    monkeypatch.chdir(ROOT)
    changes = ["searcher.name=random", "inference.scorer_name_or_path=null"]
    with pytest.raises(ConfigError, match="quality is not measured; this run reports loss, steps"):
        make_plan(Path("finetune_search.yaml"), changes, None)


def test_the_shipped_search_is_one_for_a_cluster_and_runs_here(monkeypatch):
    monkeypatch.chdir(ROOT)
    file = Path("finetune_search.yaml")
    text = file.read_text()
    assert f"det e create {file} ." in text
    assert f"python -m detsd run {file} --set searcher.name=random" in text
    plan = make_plan(file, ["searcher.name=random"], None)
    searcher = plan.experiment.searcher
    assert len(plan.points) == searcher.max_trials
    assert set(plan.varied[0]) == {
        *("training.learning_rate", "training.embedding_norm", "concepts.num_vectors"),
    }
    assert (searcher.metric, searcher.smaller_is_better) == ("quality", False)
    # A cluster's ASHA asks for both, and decides where quality has just been measured.
    training = plan.points[0]["training"]
    assert searcher.time_metric == "steps"
    assert searcher.max_time == training["num_sgd_steps"]
    for rung in range(searcher.max_rungs):
        assert searcher.max_time / searcher.divisor**rung % training["checkpoint_freq"] == 0
