"""What a command asks for: a YAML with its changes, checked, as points that have a folder each."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from determined.common.util import yaml_safe_load
from ruamel.yaml.error import YAMLError

from detsd.config import ConfigError, Experiment, FinetuneConfig, GridConfig, read
from detsd.config.read import Section
from detsd.search import draw_point, searched, trials_in_order

# What of an entrypoint's command says which module it runs, and the part of it that we call.
ENTRIES: dict[str, tuple[type[Section], tuple[str, str]]] = {
    "detsd.finetune": (FinetuneConfig, ("detsd.finetune", "finetune")),
    "finetune.py": (FinetuneConfig, ("detsd.finetune", "finetune")),
    "detsd.grid": (GridConfig, ("detsd.grid", "generate_grid")),
    "generate.py": (GridConfig, ("detsd.grid", "generate_grid")),
}


@dataclass(frozen=True)
class Plan:
    """What a command asks for, all of it checked."""

    experiment: Experiment
    entry: tuple[str, str]
    raw: dict[str, Any]  # the YAML with the changes of the command line
    points: tuple[dict[str, Any], ...]
    folder: Path

    @property
    def is_random(self) -> bool:
        """Whether the points are drawn: then one that fails says nothing of the others."""
        return self.experiment.searcher.name == "random"

    @property
    def draws(self) -> bool:
        """Whether its trials make images, and train nothing."""
        return self.entry[0] == "detsd.grid"

    @property
    def is_compared(self) -> bool:
        """Whether its trials are there to be compared: those that draw have no metric."""
        return not self.draws and len(self.points) > 1

    @cached_property
    def varied(self) -> list[dict[str, Any]]:
        """For each point the values of what is searched, by their dotted names."""
        names = searched(self.experiment.hyperparameters)
        return [{name: _look_up(point, name) for name in names} for point in self.points]

    @property
    def folders(self) -> list[Path]:
        """The run folder of each point."""
        if self.is_random:  # even for one: more may be asked for later
            return [self.folder / name for name in trial_names(self.varied)]
        if len(self.points) == 1:
            return [self.folder]
        return [self.folder / name for name in point_names(self.points)]


def make_plan(file: Path, changes: Sequence[str], out: Path | None) -> Plan:
    """Read the YAML and check everything that can be checked before a model is loaded."""
    raw = read_yaml(file)
    for change in changes:
        apply_change(raw, change)
    experiment = read(Experiment, raw)
    config, entry = _entry(experiment)
    points = _points(experiment)
    problems: dict[str, None] = {} if points else {"hyperparameters: nothing in them to run": None}
    for point in points:
        try:
            problems |= dict.fromkeys(_unmeasured(experiment.searcher.metric, read(config, point)))
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(list(problems))
    return Plan(experiment, entry, raw, tuple(points), out or Path("runs") / file.stem)


def _unmeasured(metric: str, config: Section) -> list[str]:
    if not isinstance(config, FinetuneConfig) or metric in config.measured:
        return []
    reported = ", ".join(config.measured)
    more = "" if config.inference.scorer_name_or_path else "; scores need a scorer_name_or_path"
    return [f"searcher.metric: {metric} is not measured; this run reports {reported}{more}"]


def _points(experiment: Experiment) -> list[dict[str, Any]]:
    hparams, searcher = experiment.hyperparameters, experiment.searcher
    if searcher.name != "random":
        return trials_in_order(hparams, searcher.name)
    seed = experiment.reproducibility.experiment_seed or 0
    return [draw_point(hparams, trial, seed) for trial in range(1, (searcher.max_trials or 0) + 1)]


def _look_up(point: Mapping[str, Any], name: str) -> Any:
    here: Any = point
    for key in name.split("."):
        here = here[key]
    return here


def trial_names(varied: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a name for each drawn point: which one it is, and what was drawn."""
    names = []
    for trial, values in enumerate(varied, start=1):
        short = {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in values.items()}
        names.append("-".join(filter(None, (f"{trial:03d}", _said(short)))))
    return names


def point_names(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a name for each point that says what it varies, and stays when points are added."""
    flat = [flatten(point) for point in points]
    keys = sorted(set().union(*flat))
    varied = [key for key in keys if len({repr(point.get(key)) for point in flat}) > 1]
    names = []
    for point in flat:
        values = {key: point.get(key) for key in varied}
        digest = hashlib.blake2b(json.dumps(values).encode(), digest_size=3).hexdigest()
        names.append(f"{_said(values)}-{digest}")
    return names


def _said(values: Mapping[str, Any]) -> str:
    said = ",".join(f"{key.split('.')[-1]}={value}" for key, value in values.items())
    return re.sub("[^A-Za-z0-9=.,_-]+", "-", said)[:80]


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in the file, read as Determined's own command reads it."""
    try:
        content = yaml_safe_load(file.read_text())
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read ({error.strerror})"]) from None
    except (YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ConfigError([f"{file}: is not valid YAML: {said}"]) from None
    if not isinstance(content, dict):
        raise ConfigError([f"{file}: a mapping is wanted, found {str(content)[:80]!r}"])
    return content


def apply_change(raw: dict[str, Any], change: str) -> None:
    """Set `some.key=value`; a key that is none of an experiment's is one of its hyperparameters."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ConfigError([f"--set {change}: KEY=VALUE is wanted"])
    path = key.split(".")
    if path[0] not in Experiment.model_fields:
        path = ["hyperparameters", *path]
    here = raw
    for place, part in enumerate(path[:-1]):
        here = here.setdefault(part, {}) if here.get(part) is not None else _renew(here, part)
        if not isinstance(here, dict):
            raise ConfigError([f"--set {key}: {'.'.join(path[: place + 1])} holds no keys"])
    try:
        here[path[-1]] = yaml_safe_load(text)
    except YAMLError as error:
        said = " ".join(str(error).split())
        raise ConfigError([f"--set {key}: its value is not valid YAML: {said}"]) from None


def _renew(here: dict[str, Any], part: str) -> dict[str, Any]:
    here[part] = {}
    return here[part]


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted names."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{path}.{key}" if path else str(key))
    return flat


def _entry(experiment: Experiment) -> tuple[type[Section], tuple[str, str]]:
    for word in experiment.entrypoint:
        if word in ENTRIES:
            return ENTRIES[word]
    found = " ".join(experiment.entrypoint)
    raise ConfigError([f"entrypoint: one of {', '.join(ENTRIES)} is to be in it, found {found!r}"])
