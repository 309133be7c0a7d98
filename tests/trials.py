"""Trials in a folder, in this process: a run takes a second and not ten."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from detsd.finetune import finetune
from detsd.foldertrial import open_folder_trial
from detsd.runfolder import identify
from detsd.trial import Trial


def run(
    folder: Path,
    hparams: dict[str, Any],
    work: Callable[[Trial], None] = finetune,
    **arguments: Any,
) -> Path:
    """Run a trial as a process of its own would, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    identify(folder)
    stop_at = arguments.pop("stop_at", None)
    defaults = {
        "slots": 2,
        "searcher": {},
        "place": {},
        "warm_start": None,
        "rendezvous": "env://",
    }
    with open_folder_trial(folder, hparams=hparams, **{**defaults, **arguments}) as trial:
        if stop_at is not None:
            # As a signal would: the flag is up when the loop asks after that step.
            progress = trial.progress
            trial.progress = lambda step, target: (
                trial._stop() if step == stop_at else None,
                progress(step, target),
            )
        work(trial)
    return folder


def changed(hparams: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a copy with changes: training__num_sgd_steps=3."""
    result = copy.deepcopy(hparams)
    for key, value in changes.items():
        section, name = key.split("__")
        result[section][name] = value
    return result


def last(folder: Path) -> Path:
    """Return the last checkpoint in a run folder."""
    return sorted((folder / "checkpoints").glob("step-*"))[-1]


def rows(folder: Path, name: str = "det-logo") -> dict[str, torch.Tensor]:
    """Return the vectors of a concept in the last checkpoint."""
    return load_file(last(folder) / "export" / f"{name}.safetensors")


def exports(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in the last checkpoint's export."""
    return {path.name: path.read_bytes() for path in (last(folder) / "export").iterdir()}
