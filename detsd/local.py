"""An experiment YAML without a cluster: its points one after another, each a trial in a folder."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from detsd import console
from detsd.config import ConfigError
from detsd.launcher import Launcher, locked
from detsd.plan import Plan, flatten, make_plan
from detsd.runfolder import open_checkpoints
from detsd.storage import write_whole

CONFIG = "config.yaml"
HIDDEN = "****"
SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "KEY")
GROUPS = ("environment_variables", "secrets")  # whose keys' names do not matter
SECRET_FIELDS = ("access_key", "secret_key", "connection_string", "credential")


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
    if warm_start and plan.draws:
        raise ConfigError(["--from is for training; `uuids` and the like name a grid's concepts"])
    warm_start = find_checkpoint(warm_start) if warm_start else None
    count = processes or default_processes(plan.experiment.resources.slots_per_trial)
    failed: list[Path] = []
    variables = plan.experiment.variables
    with locked(plan.folder) as lock, closing(Launcher(lock, count, variables)) as launcher:
        for number, (point, folder) in enumerate(zip(plan.points, plan.folders, strict=True), 1):
            if plan.is_compared:
                print(f"trial {number} of {len(plan.points)}: {folder.name}", flush=True)
            keep_config(folder, {**plan.raw, "hyperparameters": point})
            # This also gives the folder its identity, before several processes ask for it.
            open_checkpoints(plan.experiment.checkpoint_storage.place, folder).check()
            task = _task(plan, point, folder, warm_start)
            code = launcher.run(task, is_last=number == len(plan.points))
            if launcher.stopping or (code and not plan.is_random):
                return code
            if code:
                failed.append(folder)
        _finish(plan, failed)
    return 1 if len(failed) == len(plan.points) else 0


def say_what_would_run(
    file: Path, changes: Sequence[str], out: Path | None, processes: int | None
) -> None:
    """Print the trials of a YAML and, of generation, what its images will take; run nothing."""
    plan = make_plan(file, changes, out)
    slots = max(1, plan.experiment.resources.slots_per_trial)
    count = processes or default_processes(slots)
    for folder in plan.folders:
        print(f"{folder}: a trial on {count} process{'es' if count > 1 else ''}")
    if plan.draws:
        from detsd.preview import preview

        console.hush_loading()
        print(preview(plan.points, slots, count))


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
    if slots <= 1:
        return 1
    from torch.cuda import device_count

    return max(1, min(slots, device_count()))


def keep_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config as run, secrets hidden; say what has changed since the last time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG
    text = yaml.safe_dump(hide_secrets(config), sort_keys=False, allow_unicode=True)
    if path.is_file():
        before = flatten(yaml.safe_load(path.read_text("utf-8")) or {})
        now = flatten(yaml.safe_load(text))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                print(f"{key} was {before.get(key)} in the last run, is {now.get(key)}")
    write_whole(path, text)


def hide_secrets(value: Any, key: str = "") -> Any:
    """Return the config without what must not be written down."""
    if isinstance(value, Mapping):
        return {
            # The variables may come in groups, too: cpu, cuda, rocm.
            name: hide_secrets(inner, key if key in GROUPS else str(name))
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [hide_secrets(inner, key) for inner in value]
    if key in (*SECRET_FIELDS, "secrets") and value is not None:
        return HIDDEN
    name, equals, _ = str(value).partition("=")
    if key in GROUPS and equals and any(word in name.upper() for word in SECRET_WORDS):
        return f"{name}={HIDDEN}"
    return value


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


def _finish(plan: Plan, failed: Sequence[Path]) -> None:
    from detsd.leaderboard import write_leaderboard
    from detsd.retention import collect_garbage

    deleted = collect_garbage(plan.experiment, plan.folders)
    if deleted:
        print(f"{len(deleted)} checkpoints deleted, as checkpoint_storage.save_* say")
    for folder in plan.folders:
        storage = open_checkpoints(plan.experiment.checkpoint_storage.place, folder)
        latest = storage.list()[-1:]
        if latest:
            print(f"the last checkpoint of {folder}: {storage.where(latest[0].id)}")
    if plan.draws and plan.folders != [plan.folder]:
        from detsd.gather import gather_trials

        print(f"all images on one page: {gather_trials(plan.folders, plan.folder)}")
    if plan.is_compared:
        searcher = plan.experiment.searcher
        metric, less = searcher.metric, searcher.smaller_is_better
        trials = list(zip(plan.folders, plan.varied, strict=True))
        print(write_leaderboard(plan.folder, trials, failed, metric, smaller_is_better=less))
