"""An experiment, its trials, their attempts and metrics. This file knows what a master keeps."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.ports import LOOPBACK

QUEUED, RUNNING, PAUSED = "QUEUED", "RUNNING", "PAUSED"
COMPLETED, CANCELED, ERROR = "COMPLETED", "CANCELED", "ERROR"
OVER = (COMPLETED, CANCELED, ERROR)


# The parts of the metrics table: of all other groups there is one. Profiling starts with core.init.
PARTS = {
    **{"training": "training", "validation": "validation"},
    **dict.fromkeys(("gpu", "cpu", "memory", "disk", "network"), "profiling"),
}


class RefusedError(Exception):
    """A request that the real master would not take."""

    def __init__(self, code: int, why: str):
        super().__init__(why)
        self.code = code


class TooLateError(RefusedError):
    """A request of an attempt that is over: its token is no longer known."""

    def __init__(self) -> None:
        super().__init__(401, "the token of an allocation that is over")


@dataclass
class Allocation:
    """An attempt of a trial: the slots that it has, and what was said about giving them back."""

    trial: "Trial"
    slots: int
    addresses: Sequence[str] = (LOOPBACK,)  # of its containers
    id: str = field(default_factory=lambda: f"allocation-{uuid.uuid4().hex}")
    preempted_at: float | None = None
    told_at: float | None = None  # when a poll was answered so; before that it cannot know
    acknowledged_at: float | None = None
    is_over: bool = False
    met: set[int] = field(default_factory=set)  # of the containers, those that are there

    @property
    def token(self) -> str:
        return f"session-{self.id}"

    @property
    def preempted(self) -> bool:
        return self.preempted_at is not None

    @property
    def acknowledged(self) -> bool:
        return self.acknowledged_at is not None

    @property
    def seconds_to_acknowledge(self) -> float:
        assert self.told_at is not None and self.acknowledged_at is not None
        return self.acknowledged_at - self.told_at


@dataclass
class Metric:
    """A line of the metrics table."""

    run: int
    group: str
    step: int
    values: dict[str, Any]
    archived: bool = False


@dataclass
class Trial:
    """A point of an experiment, over all of its attempts."""

    id: int
    experiment: "Experiment"
    hparams: dict[str, Any]
    state: str = QUEUED
    run: int = 0
    restarts: int = 0
    allocation: Allocation | None = None
    table: list[Metric] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    source: str | None = None  # the checkpoint to start from while there is no own one
    started_from: int = 0  # the step at which this attempt began

    @property
    def slots(self) -> int:
        """How many its next attempt gets."""
        return self.experiment.config["resources"]["slots_per_trial"]

    @property
    def latest(self) -> dict[str, Any] | None:
        """Its checkpoint with the most steps, which need not be the newest."""
        whole = [one for one in self.checkpoints if one["state"] == "STATE_COMPLETED"]
        return max(whole, key=lambda one: one["metadata"]["steps_completed"], default=None)

    def metrics(self, group: str) -> dict[int, dict[str, Any]]:
        """What the Web UI shows: the rows that no later attempt has replaced, by step."""
        shown = [row for row in self.table if row.group == group and not row.archived]
        return {row.step: row.values for row in sorted(shown, key=lambda row: row.step)}

    def report(self, run: int, group: str, step: int, values: dict[str, Any]) -> str | None:
        """Take in metrics of a step; return what the master bears and a user would wonder at."""
        if run != self.run:
            raise RefusedError(400, f"metrics of run {run}, while {self.run} is going on")
        if "." in group:
            raise RefusedError(400, f"a dot in the metric group {group}")
        rows = [row for row in self.table if row.group == group and row.step == step]
        said = [row.values for row in rows if row.run < run]
        self._roll_back(run, group, step)
        self._merge(run, group, step, values)
        if step <= self.started_from and any(one != values for one in said):
            return f"run {run} says of {group} step {step}, which was over, something else"
        return None

    def _roll_back(self, run: int, group: str, step: int) -> None:
        # With each report, as rollbackMetrics in master/internal/db/postgres_trial_metrics.go.
        for row in self.table:
            same = PARTS.get(row.group) == PARTS.get(group)
            is_later = row.step >= step if same else row.step > step
            row.archived |= row.run < run and is_later

    def _merge(self, run: int, group: str, step: int, values: dict[str, Any]) -> None:
        for row in self.table:
            if (row.group, row.step, row.archived) == (group, step, False):
                # Since 0.26 an equal value is taken; what runs here says nothing twice, though.
                if row.values.keys() & values.keys():
                    raise RefusedError(400, "overwriting existing metric keys is not supported")
                row.values.update(values)
                return
        self.table.append(Metric(run, group, step, values))


@dataclass
class Experiment:
    """What `det e create` has sent, and the trials that came of it."""

    id: int
    text: str
    config: dict[str, Any]
    files: list[dict[str, Any]]
    points: list[dict[str, Any]]  # not yet a trial
    trials: list[Trial] = field(default_factory=list)
    paused: bool = False

    @property
    def state(self) -> str:
        states = {trial.state for trial in self.trials}
        if self.points or not states <= set(OVER):
            return PAUSED if self.paused else "ACTIVE"
        return next((state for state in (ERROR, CANCELED) if state in states), COMPLETED)
