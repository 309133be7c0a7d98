"""The metrics table: a report replaces what earlier attempts had said of its step and on."""

import pytest

from tests.cluster.records import Experiment, Trial


@pytest.fixture
def trial() -> Trial:
    """A trial whose first attempt is over."""
    trial = Trial(1, Experiment(1, "", {}, [], []), {}, run=1)
    for step in (2, 4, 6):
        for group in ("training", "validation", "images"):
            trial.report(1, group, step, {"value": step})
    trial.run = 2
    return trial


def steps(trial: Trial, group: str) -> list[int]:
    return [*trial.metrics(group)]


def test_a_report_replaces_later_ones_of_its_group_and_after_it_of_the_others(trial):
    trial.report(2, "validation", 4, {"value": 9})
    assert trial.metrics("validation") == {2: {"value": 2}, 4: {"value": 9}}
    assert steps(trial, "training") == steps(trial, "images") == [2, 4]


def test_each_report_does_and_an_attempts_own_stay(trial):
    trial.report(2, "validation", 4, {"value": 9})
    trial.report(2, "validation", 6, {"value": 9})
    trial.report(2, "training", 3, {"value": 9})
    assert trial.metrics("training") == {2: {"value": 2}, 3: {"value": 9}}
    assert steps(trial, "validation") == [2, 4, 6]
    assert steps(trial, "images") == [2]


def test_all_groups_of_a_users_own_are_one(trial):
    trial.report(2, "sounds", 2, {"value": 1})
    assert steps(trial, "images") == []
    assert steps(trial, "training") == [2]
