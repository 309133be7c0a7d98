"""The stand-in keeps the real master's rules, and notes who breaks one."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from determined.common import api
from determined.common.api import bindings

from tests.cluster.client import ranking
from tests.cluster.master import USER_TOKEN, Master
from tests.cluster.records import CANCELED, COMPLETED, ERROR, OVER, QUEUED, Allocation


@pytest.fixture
def attempt(master: Master, submit: Callable[..., Any]) -> Allocation:
    """The first attempt of a trial that may fail once."""
    return master.allocate(submit({"one": 1}, max_restarts=1))


def session(master: Master, allocation: Allocation) -> api.TaskSession:
    return api.TaskSession(master.url, "user", allocation.token, None, max_retries=0)


def report(
    master: Master,
    allocation: Allocation,
    step: int,
    group: str = "training",
    run: int = 0,
    **values: Any,
) -> None:
    body = bindings.v1TrialMetrics(
        metrics=bindings.v1Metrics(avgMetrics=values),
        stepsCompleted=step,
        trialId=allocation.trial.id,
        trialRunId=run or allocation.trial.run,
    )
    request = bindings.v1ReportTrialMetricsRequest(metrics=body, group=group)
    bindings.post_ReportTrialMetrics(
        session(master, allocation), body=request, metrics_trialId=allocation.trial.id
    )


def save_by_request(master: Master, allocation: Allocation, uuid: str, steps: int) -> None:
    checkpoint = {"uuid": uuid, "taskId": "1.1", "allocationId": allocation.id}
    told = {"metadata": {"steps_completed": steps}, "state": "STATE_COMPLETED", "resources": {}}
    session(master, allocation).post("/api/v1/checkpoints", json=checkpoint | told)


def save(allocation: Allocation, uuid: str, steps: int, state: str = "COMPLETED") -> None:
    told = {"uuid": uuid, "metadata": {"steps_completed": steps}, "state": f"STATE_{state}"}
    allocation.trial.checkpoints.append(told)


def test_metrics_are_not_changed_and_not_those_of_an_old_attempt(master, attempt):
    trial = attempt.trial
    report(master, attempt, 2, loss=1.0)
    report(master, attempt, 2, rate=0.1)
    report(master, attempt, 4, loss=0.5)
    assert trial.metrics("training") == {2: {"loss": 1.0, "rate": 0.1}, 4: {"loss": 0.5}}
    for refused in ({"loss": 1.0}, {"loss": 2.0, "new": 1}):
        with pytest.raises(api.errors.APIException, match="overwriting"):
            report(master, attempt, 2, **refused)
    with pytest.raises(api.errors.APIException, match="dot"):
        report(master, attempt, 2, group="a.b", loss=1)
    master.ended(attempt, 1)
    second = master.allocate(trial)
    report(master, second, 3, loss=0.7)
    assert trial.metrics("training") == {2: {"loss": 1.0, "rate": 0.1}, 3: {"loss": 0.7}}
    with pytest.raises(api.errors.APIException, match="of run 1"):
        report(master, second, 9, run=1, loss=0.7)
    assert len(master.broken) == 4
    master.broken.clear()


def test_who_is_left_over_from_an_attempt_changes_nothing(master, attempt):
    trial = attempt.trial
    save_by_request(master, attempt, "a", 2)
    report(master, attempt, 2, loss=1)
    master.preempt(trial)
    master.ended(attempt, 1)
    ours, signals = session(master, attempt), f"/api/v1/allocations/{attempt.id}/signals"
    for refused in (
        lambda: ours.get(f"{signals}/preemption?timeout_seconds=0"),
        lambda: ours.post("/api/v1/task/logs", json={"logs": []}),
    ):
        with pytest.raises(api.errors.UnauthenticatedException):
            refused()
    assert not master.broken  # it may be just closing
    for refused in (
        lambda: save_by_request(master, attempt, "b", 4),
        lambda: report(master, attempt, 4, loss=1),
        lambda: ours.post(f"{signals}/ack_preemption"),
    ):
        with pytest.raises(api.errors.UnauthenticatedException):
            refused()
    assert trial.latest["uuid"] == "a" and [*trial.metrics("training")] == [2]
    assert not attempt.acknowledged
    assert len(master.broken) == 3
    master.broken.clear()


def test_a_checkpoint_is_reported_once(master, attempt):
    save_by_request(master, attempt, "a", 2)
    with pytest.raises(api.errors.APIException, match="uuid is known"):
        save_by_request(master, attempt, "a", 4)
    assert len(attempt.trial.checkpoints) == len(master.broken) == 1
    master.broken.clear()


def test_a_step_that_was_over_is_not_told_anew(master, attempt):
    report(master, attempt, 4, "validation", loss=1.0)
    save(attempt, "a", 4)
    master.ended(attempt, 1)
    second = master.allocate(attempt.trial)
    report(master, second, 4, "validation", loss=1.0)
    assert not master.broken
    report(master, second, 6, "validation", loss=2.0)
    master.ended(second, 1)
    save(second, "b", 6)
    attempt.trial.state = QUEUED
    report(master, master.allocate(attempt.trial), 6, "validation", loss=3.0)
    (odd,) = master.broken
    assert "validation step 6" in odd
    master.broken.clear()


def test_the_latest_checkpoint_has_the_most_steps_and_the_best_a_validation(master, attempt):
    for uuid, steps in (("a", 2), ("b", 6), ("c", 4)):
        save(attempt, uuid, steps)
    save(attempt, "d", 8, "ERROR")
    assert master.start_of(attempt.trial) == "b"
    report(master, attempt, 2, "validation", loss=0.3)
    report(master, attempt, 4, "validation", loss=0.2)
    assert ranking(attempt.trial) == [(0.2, "c"), (0.3, "a")]


def test_preemption_is_told_at_once_and_acknowledged_once(master, attempt):
    ours = session(master, attempt)
    path = f"/api/v1/allocations/{attempt.id}/signals"
    assert ours.get(f"{path}/preemption?timeout_seconds=0").json() == {"preempt": False}
    threading.Timer(0.1, master.preempt, [attempt.trial]).start()
    begun = time.monotonic()
    assert ours.get(f"{path}/preemption?timeout_seconds=60").json() == {"preempt": True}
    assert time.monotonic() - begun < 1
    ours.post(f"{path}/ack_preemption")
    with pytest.raises(api.errors.APIException):
        ours.post(f"{path}/ack_preemption")
    assert len(master.broken) == 1
    master.broken.clear()
    # Acknowledged: whatever the exit code, it was no failure.
    master.ended(attempt, 1)
    assert (attempt.trial.state, attempt.trial.restarts) == (QUEUED, 0)


def test_what_an_exit_code_means(master, attempt):
    trial = attempt.trial
    master.ended(attempt, 1)
    assert (trial.state, trial.restarts) == (QUEUED, 1)
    master.ended(master.allocate(trial), 1)
    assert trial.state == ERROR
    master.go_on(trial.experiment, {"hyperparameters": {"one": 2.0}})
    assert (trial.state, trial.restarts, trial.hparams) == (QUEUED, 0, {"one": 2})
    third = master.allocate(trial)
    assert trial.run == 3
    master.preempt(trial)
    master.ended(third, 0)
    assert trial.state == COMPLETED
    master.go_on(trial.experiment, {})
    fourth = master.allocate(trial)
    master.kill(trial.experiment)
    master.ended(fourth, 137)
    assert trial.experiment.state == CANCELED


def test_a_request_bears_the_right_token(master, attempt):
    user = api.Session(master.url, "user", USER_TOKEN, None, max_retries=0)
    task = session(master, attempt)
    wrong = api.TaskSession(master.url, "user", "no", None, max_retries=0)
    assert user.get("/api/v1/me").ok and task.get("/api/v1/me").ok
    for refused in (
        lambda: wrong.get("/api/v1/me"),
        lambda: user.post(f"/api/v1/allocations/{attempt.id}/signals/ack_preemption"),
        lambda: task.get("/api/v1/allocations/another/signals/preemption?timeout_seconds=0"),
        lambda: task.get("/api/v1/nowhere"),
    ):
        with pytest.raises((api.errors.BadRequestException, api.errors.APIException)):
            refused()
    assert len(master.broken) == 4
    master.broken.clear()


def test_what_is_not_there_is_null_and_what_is_false_is_said(master, attempt):
    """The real gateway leaves nothing out, so a reader must not rely on a key's absence."""
    save_by_request(master, attempt, "a", 2)
    ours = session(master, attempt)
    user = api.Session(master.url, "user", USER_TOKEN, None, max_retries=0)
    polled = ours.get(f"/api/v1/allocations/{attempt.id}/signals/preemption?timeout_seconds=0")
    assert polled.json() == {"preempt": False}
    checkpoint = ours.get("/api/v1/checkpoints/a").json()["checkpoint"]
    of_training = checkpoint["training"]
    assert (of_training["trainingMetrics"], of_training["searcherMetric"]) == (None, None)
    assert of_training["validationMetrics"] == {"avgMetrics": {}, "batchMetrics": None}
    for path, nulls in (
        ("trials/1", {"endTime", "runnerState", "bestCheckpoint", "latestValidation"}),
        ("experiments/1", {"endTime", "description", "labels", "progress"}),
    ):
        (told,) = [one for one in user.get(f"/api/v1/{path}").json().values() if one]
        assert {name for name, value in told.items() if value is None} == nulls
    assert user.get("/api/v1/experiments/1").json()["experiment"]["archived"] is False


def test_a_grid_is_expanded_from_its_end_and_a_fork_has_its_parents_code(master):
    config = {
        "entrypoint": "true",
        "searcher": {"name": "grid", "metric": "loss", "max_concurrent_trials": 2},
        "hyperparameters": {
            "b": {"type": "categorical", "vals": ["x", "y"]},
            "a": {"type": "double", "minval": 1, "maxval": 2, "count": 2},
        },
    }
    parent = master.create(yaml.safe_dump(config), [{"path": "p", "content": ""}], dry=False)
    assert [trial.hparams for trial in parent.trials] == [{"a": 2, "b": "y"}, {"a": 2, "b": "x"}]
    while parent.state not in OVER:
        (trial, *_) = [trial for trial in parent.trials if trial.state == QUEUED]
        master.ended(master.allocate(trial), 0)
    assert [trial.hparams["a"] for trial in parent.trials] == [2, 2, 1, 1]
    fork = master.create(yaml.safe_dump(config), [], parent.id, dry=False)
    assert fork.files == parent.files
    user = api.Session(master.url, "user", USER_TOKEN, None, max_retries=0)
    page = bindings.get_GetExperimentTrials(user, experimentId=parent.id, offset=1, limit=2)
    assert [trial.id for trial in page.trials] == [2, 3]
    assert (page.pagination.endIndex, page.pagination.total) == (3, 4)
    assert bindings.get_GetExperiment(user, experimentId=parent.id).experiment.numTrials == 4
