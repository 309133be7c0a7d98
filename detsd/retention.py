"""Which checkpoints outlive an experiment, by the rules of `checkpoint_storage`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detsd.config import Experiment
from detsd.runfolder import METRICS, open_checkpoints, read_metrics
from detsd.storage import Storage


class Ranked(NamedTuple):
    """A checkpoint of a trial, with the metric that ranks it; lower is better here."""

    storage: Storage
    id: str
    steps: int
    metric: float | None


def collect_garbage(experiment: Experiment, folders: Sequence[Path]) -> list[str]:
    """Delete what the rules do not keep, when the YAML states any; return what was deleted."""
    rules = experiment.checkpoint_storage
    if not any(name.startswith("save_") for name in rules.model_fields_set):
        return []
    trials = [_rank(experiment, folder) for folder in folders]
    kept: set[int] = set()
    for checkpoints in trials:
        by_steps = sorted(checkpoints, key=lambda one: -one.steps)
        kept |= {id(one) for one in by_steps[: rules.save_trial_latest]}
        kept |= {id(one) for one in _best(checkpoints, rules.save_trial_best)}
    everything = [one for checkpoints in trials for one in checkpoints]
    kept |= {id(one) for one in _best(everything, rules.save_experiment_best)}
    doomed = [one for one in everything if id(one) not in kept]
    for one in doomed:
        one.storage.delete(one.id)
    return [one.id for one in doomed]


def _rank(experiment: Experiment, folder: Path) -> list[Ranked]:
    storage = open_checkpoints(experiment.checkpoint_storage.place, folder)
    searcher = experiment.searcher
    sign = 1 if searcher.smaller_is_better else -1
    metrics = {
        line["step"]: sign * line["metrics"][searcher.metric]
        for line in read_metrics(folder / METRICS)
        if line["group"] == "validation" and searcher.metric in line["metrics"]
    }
    steps = [(stored.id, stored.metadata["steps_completed"]) for stored in storage.list()]
    return [Ranked(storage, id, step, metrics.get(step)) for id, step in steps]


def _best(checkpoints: Sequence[Ranked], count: int) -> list[Ranked]:
    measured = [one for one in checkpoints if one.metric is not None]
    return sorted(measured, key=lambda one: one.metric or 0.0)[:count]
