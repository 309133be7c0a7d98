"""What a run cannot compute again, and how a checkpoint keeps it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detsd.config import TrainingConfig
from detsd.methods import Method
from detsd.optimization import load_optimizer_state, optimizer_state
from detsd.reason import reason

log = logging.getLogger(__name__)

FORMAT = 1
STATE = "resume/state.pt"
SOME = 5  # names that the log is told


class ResumeError(ValueError):
    """A checkpoint that a run cannot go on from."""


def write_state(
    folder: Path,
    *,
    step: int,
    method: Method,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    run: Mapping[str, Any],
) -> None:
    """Write the learnt tensors, the optimizer's and the step; the rest follows from the config."""
    path = folder / STATE
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "format": FORMAT,
        "step": step,
        "method": method.state_dict(),
        "optimizer": optimizer_state(optimizer),
        "optimizer_kind": _kind(config),
        "run": {**run, "threads": torch.get_num_threads()},
    }
    torch.save(state, path)


def read_state(
    folder: Path,
    *,
    method: Method,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    run: Mapping[str, Any],
) -> tuple[int, dict[str, Any]]:
    """Restore what `write_state` wrote; return the step and what was noted of the run."""
    state = _load(folder / STATE)
    missing = method.load_state_dict(state["method"])
    for name in missing[:SOME]:
        log.warning("%s is new, or has another shape, since the checkpoint: it starts anew", name)
    if len(missing) > SOME:
        log.warning("and so do %d more: is it another method?", len(missing) - SOME)
    if state["optimizer_kind"] == _kind(config):
        known = {name: value for name, value in state["optimizer"].items() if name not in missing}
        load_optimizer_state(optimizer, known)
    else:
        log.warning("the optimizer is another one since the checkpoint: it starts anew")
    _note_changes(state["run"], {**run, "threads": torch.get_num_threads()})
    return state["step"], state["run"]


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # A file that is missing, cut short or of another make: one answer to all of them.
    except Exception as error:
        raise ResumeError(
            f"{path} cannot be read ({reason(error)}); "
            "remove its checkpoint to go on from the one before"
        ) from error
    if state.get("format") != FORMAT:
        raise ResumeError(
            f"{path} has format {state.get('format')}, this detsd goes on from format {FORMAT}: "
            "use the version that wrote it, or start a new run with --from this checkpoint"
        )
    return state


def _note_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    names = {
        "base_model": "base model",
        "batch_size": "effective batch",
        "processes": "number of processes",
        "threads": "number of threads",
    }
    for key, name in names.items():
        if before.get(key) != now.get(key):
            exactly = "equals bit for bit" if key in ("processes", "threads") else "equals"
            log.warning(
                "the %s was %s at the checkpoint and is %s: the run goes on, but no longer %s "
                "a straight one",
                *(name, before.get(key), now.get(key), exactly),
            )


def _kind(config: TrainingConfig) -> str:
    amsgrad = bool(config.other_optimizer_kwargs.get("amsgrad"))
    return f"{config.optimizer_name}{'-amsgrad' if amsgrad else ''}"
