"""Experiments, trials and their attempts. This file knows the rules that the real master keeps."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Condition
from typing import Any

from determined.common.util import yaml_safe_load

from tests.cluster.points import points
from tests.cluster.ports import LOOPBACK
from tests.cluster.records import (
    CANCELED,
    COMPLETED,
    ERROR,
    OVER,
    QUEUED,
    RUNNING,
    Allocation,
    Experiment,
    RefusedError,
    Trial,
)

GATEWAY_LIMIT = 96 * 2**20  # bytes of a request


class Rules:
    """Decides, as the master does, what becomes of experiments and their trials."""

    def __init__(self, storage: Path):
        self.changed = Condition()
        self.storage = storage
        self.defaults = {
            "checkpoint_storage": {"type": "directory", "container_path": str(storage)},
            "resources": {"slots_per_trial": 1},
            "max_restarts": 5,
            "searcher": {"smaller_is_better": True},
        }
        self.experiments: dict[int, Experiment] = {}
        self.trials: dict[int, Trial] = {}
        self.allocations: dict[str, Allocation] = {}

    def create(
        self, text: str, files: list[dict[str, Any]], parent: int | None = None, *, dry: bool
    ) -> Experiment:
        """Make an experiment; a fork gets its parent's code."""
        config = merged(self.defaults, as_json(yaml_safe_load(text)))
        if "entrypoint" not in config or "metric" not in config["searcher"]:
            raise RefusedError(400, "entrypoint and searcher.metric are needed")
        if sum(len(file["content"] or "") for file in files) > GATEWAY_LIMIT:
            raise RefusedError(400, "the request is larger than the gateway takes")
        source = self._source(config["searcher"])
        found = points(config.get("hyperparameters", {}), config["searcher"]["name"])
        if parent is not None:
            files = self.experiments[parent].files
        experiment = Experiment(len(self.experiments) + 1, text, config, files, as_json(found))
        if not dry:
            with self.changed:
                self.experiments[experiment.id] = experiment
                self._fill(experiment, source)
                self.changed.notify_all()
        return experiment

    def go_on(self, experiment: Experiment, override: Mapping[str, Any]) -> None:
        """Continue an experiment that is over: its trials' next attempts, maybe changed."""
        if experiment.state not in OVER:
            raise RefusedError(400, f"experiment {experiment.id} is {experiment.state}")
        single = experiment.config["searcher"]["name"] == "single"
        if override and not single:
            raise RefusedError(400, "only a single trial's config can be changed")
        experiment.config = merged(experiment.config, as_json(override))
        for trial in experiment.trials:
            if single:
                (trial.hparams,) = as_json(points(experiment.config["hyperparameters"], "single"))
            if single or trial.state != COMPLETED:
                trial.state, trial.restarts = QUEUED, 0

    def allocate(
        self, trial: Trial, slots: int | None = None, addresses: Sequence[str] = (LOOPBACK,)
    ) -> Allocation:
        """Give a queued trial its slots: a new attempt."""
        assert trial.state == QUEUED and not trial.experiment.paused, trial
        own = trial.latest
        trial.started_from = own["metadata"]["steps_completed"] if own else 0
        trial.run += 1
        trial.state = RUNNING
        trial.allocation = Allocation(trial, slots or trial.slots, addresses)
        self.allocations[trial.allocation.id] = trial.allocation
        return trial.allocation

    def ended(self, allocation: Allocation, code: int) -> None:
        """Decide what an attempt's end means: killed, acknowledged, exit 0 and error, in turn."""
        with self.changed:
            trial = allocation.trial
            trial.allocation = None
            allocation.is_over = True
            if trial.state == CANCELED:
                pass
            elif allocation.acknowledged:
                trial.state = QUEUED  # and never a failure, whatever the code
            elif code == 0:
                trial.state = COMPLETED
            else:
                trial.restarts += 1
                used_up = trial.restarts > trial.experiment.config["max_restarts"]
                trial.state = ERROR if used_up else QUEUED
            if trial.state in OVER:
                self._fill(trial.experiment, trial.source)
            self.changed.notify_all()

    def preempt(self, trial: Trial) -> None:
        """Ask for the trial's slots."""
        with self.changed:
            assert trial.allocation is not None
            if not trial.allocation.preempted:  # once asked is asked
                trial.allocation.preempted_at = time.monotonic()
            self.changed.notify_all()

    def pause(self, experiment: Experiment) -> None:
        """Ask for all of its slots, until it is activated."""
        experiment.paused = True
        for trial in experiment.trials:
            if trial.allocation:
                self.preempt(trial)

    def kill(self, experiment: Experiment) -> None:
        """Have nothing more of it; an agent ends what runs."""
        experiment.points.clear()
        for trial in experiment.trials:
            trial.state = trial.state if trial.state in OVER else CANCELED

    def start_of(self, trial: Trial) -> str | None:
        """Return the checkpoint that its next attempt starts from."""
        return trial.latest["uuid"] if trial.latest else trial.source

    def checkpoints(self) -> Iterator[tuple[Trial, dict[str, Any]]]:
        """Yield all of them with their trials."""
        for trial in self.trials.values():
            for checkpoint in trial.checkpoints:
                yield trial, checkpoint

    def _source(self, searcher: Mapping[str, Any]) -> str | None:
        if (id := searcher.get("source_trial_id")) is None:
            return searcher.get("source_checkpoint_uuid")
        if id not in self.trials or self.trials[id].latest is None:
            raise RefusedError(400, f"trial {id} has no checkpoint to start from")
        return self.trials[id].latest["uuid"]

    def _fill(self, experiment: Experiment, source: str | None) -> None:
        most = experiment.config["searcher"].get("max_concurrent_trials", 16) or 10**9
        while experiment.points and sum(t.state not in OVER for t in experiment.trials) < most:
            id = len(self.trials) + 1
            trial = Trial(id, experiment, experiment.points.pop(0), source=source)
            self.trials[id] = trial
            experiment.trials.append(trial)


def merged(under: Any, over: Any) -> Any:
    """Return `under` with everything that `over` says."""
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)):
        return copy.deepcopy(over)
    return {
        key: merged(under.get(key), over[key]) if key in over else copy.deepcopy(under[key])
        for key in [*under, *(key for key in over if key not in under)]
    }


def as_json(value: Any) -> Any:
    """Return it as Go's float64 brings it through JSON: 6.0 arrives as 6."""
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
