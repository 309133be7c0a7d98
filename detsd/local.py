"""An experiment YAML without a cluster: its points one after another, each a trial in a folder."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from determined.common.util import yaml_safe_load
from ruamel.yaml.error import YAMLError

from detsd.config import ConfigError, Experiment, FinetuneConfig, GridConfig, read
from detsd.config.read import Section
from detsd.launcher import Launcher, locked
from detsd.runfolder import open_checkpoints
from detsd.search import trials_in_order
from detsd.storage import write_whole

CONFIG = "config.yaml"
# What of an entrypoint's command says which module it runs, and the part of it that we call.
ENTRIES: dict[str, tuple[type[Section], tuple[str, str]]] = {
    "detsd.finetune": (FinetuneConfig, ("detsd.finetune", "finetune")),
    "finetune.py": (FinetuneConfig, ("detsd.finetune", "finetune")),
    "detsd.grid": (GridConfig, ("detsd.grid", "generate_grid")),
    "generate.py": (GridConfig, ("detsd.grid", "generate_grid")),
}
HIDDEN = "****"
SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "KEY")
VARIABLES = ("environment_variables",)
SECRET_FIELDS = ("access_key", "secret_key", "connection_string", "credential")


@dataclass(frozen=True)
class Plan:
    """What a command asks for, all of it checked."""

    experiment: Experiment
    entry: tuple[str, str]
    raw: dict[str, Any]  # the YAML with the changes of the command line
    points: tuple[dict[str, Any], ...]
    folder: Path

    @property
    def folders(self) -> list[Path]:
        """The run folder of each point."""
        if len(self.points) == 1:
            return [self.folder]
        return [self.folder / name for name in point_names(self.points)]


def run_file(
    file: Path,
    *,
    changes: Sequence[str] = (),
    out: Path | None = None,
    processes: int | None = None,
    warm_start: str | None = None,
) -> int:
    """Run the experiment of a YAML, or go on with it; return the exit code."""
    plan = make_plan(file, changes, out)
    warm_start = find_checkpoint(warm_start) if warm_start else None
    count = processes or default_processes(plan.experiment.resources.slots_per_trial)
    with locked(plan.folder) as lock:
        launcher = Launcher(lock)
        for point, folder in zip(plan.points, plan.folders, strict=True):
            keep_config(folder, {**plan.raw, "hyperparameters": point})
            # This also gives the folder its identity, before several processes ask for it.
            open_checkpoints(plan.experiment.checkpoint_storage.place, folder).check()
            task = _task(plan, point, folder, warm_start)
            code = launcher.run(task, count, plan.experiment.environment.variables)
            if code or launcher.stopping:
                return code
        _finish(plan)
    return 0


def make_plan(file: Path, changes: Sequence[str], out: Path | None) -> Plan:
    """Read the YAML and check everything that can be checked before a model is loaded."""
    raw = read_yaml(file)
    for change in changes:
        apply_change(raw, change)
    experiment = read(Experiment, raw)
    config, entry = _entry(experiment)
    points = trials_in_order(experiment.hyperparameters, experiment.searcher.name)
    problems: dict[str, None] = {} if points else {"hyperparameters: nothing in them to run": None}
    for point in points:
        try:
            read(config, point)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(list(problems))
    return Plan(experiment, entry, raw, tuple(points), out or Path("runs") / file.stem)


def point_names(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a name for each point that says what it varies, and stays when points are added."""
    flat = [_flatten(point) for point in points]
    keys = sorted(set().union(*flat))
    varied = [key for key in keys if len({repr(point.get(key)) for point in flat}) > 1]
    names = []
    for point in flat:
        values = {key: point.get(key) for key in varied}
        said = ",".join(f"{key.split('.')[-1]}={value}" for key, value in values.items())
        digest = hashlib.blake2b(json.dumps(values).encode(), digest_size=3).hexdigest()
        names.append(f"{re.sub('[^A-Za-z0-9=.,_-]+', '-', said)[:80]}-{digest}")
    return names


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


def find_checkpoint(source: str) -> str:
    """Return what --from names: a checkpoint, a concept file, a run's last one, or a storage id."""
    path = Path(source).expanduser()
    if (path / "checkpoints").is_dir():
        found = sorted((path / "checkpoints").glob("step-*"))
        if not found:
            raise ConfigError([f"--from {source}: the run has no checkpoint yet"])
        return str(found[-1])
    if not path.exists() and len(path.parts) > 1:
        raise ConfigError([f"--from {source}: no such file or folder"])
    return str(path)


def default_processes(slots: int) -> int:
    """Return as many processes as there are GPUs, at most the slots asked for; one on a CPU."""
    from torch.cuda import device_count

    return max(1, min(slots, device_count()))


def keep_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config as run, secrets hidden; say what has changed since the last time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG
    text = yaml.safe_dump(hide_secrets(config), sort_keys=False, allow_unicode=True)
    if path.is_file():
        before = _flatten(yaml.safe_load(path.read_text()) or {})
        now = _flatten(yaml.safe_load(text))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                print(f"{key} was {before.get(key)} in the last run, is {now.get(key)}")
    write_whole(path, text)


def hide_secrets(value: Any, key: str = "") -> Any:
    """Return the config without what must not be written down."""
    if isinstance(value, Mapping):
        return {
            # The variables may come in groups: cpu, cuda, rocm.
            name: hide_secrets(inner, key if key in VARIABLES else str(name))
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [hide_secrets(inner, key) for inner in value]
    if key in SECRET_FIELDS and value is not None:
        return HIDDEN
    name, equals, _ = str(value).partition("=")
    if key in VARIABLES and equals and any(word in name.upper() for word in SECRET_WORDS):
        return f"{name}={HIDDEN}"
    return value


def _flatten(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {path: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{path}.{key}" if path else str(key))
    return flat


def _entry(experiment: Experiment) -> tuple[type[Section], tuple[str, str]]:
    for word in experiment.entrypoint:
        if word in ENTRIES:
            return ENTRIES[word]
    found = " ".join(experiment.entrypoint)
    raise ConfigError([f"entrypoint: one of {', '.join(ENTRIES)} is to be in it, found {found!r}"])


def _task(
    plan: Plan, point: Mapping[str, Any], folder: Path, warm_start: str | None
) -> dict[str, Any]:
    experiment = plan.experiment
    return {
        "entry": plan.entry,
        "folder": str(folder),
        "hparams": point,
        "slots": max(1, experiment.resources.slots_per_trial),
        "searcher": experiment.searcher.model_dump(),
        "place": experiment.checkpoint_storage.place,
        "warm_start": warm_start,
    }


def _finish(plan: Plan) -> None:
    from detsd.retention import collect_garbage

    deleted = collect_garbage(plan.experiment, plan.folders)
    if deleted:
        print(f"{len(deleted)} checkpoints deleted, as checkpoint_storage.save_* say")
    for folder in plan.folders:
        storage = open_checkpoints(plan.experiment.checkpoint_storage.place, folder)
        latest = storage.list()[-1:]
        if latest:
            print(f"the last checkpoint of {folder}: {storage.where(latest[0].id)}")
