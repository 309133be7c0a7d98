"""Trials in a folder, in this process: a run takes a second and not ten."""

import copy
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from detsd.finetune import finetune
from detsd.foldertrial import open_folder_trial
from detsd.runfolder import identify
from detsd.trial import Trial

CLASS = {"class_prompt": "a photo of a logo", "num_class_images": 3, "num_inference_steps": 2}
LORA = {"kind": "lora"}
EVERYTHING = {
    "kind": "lora",
    "dora": True,
    "dropout": 0.1,
    "targets": ["attention", "feed_forward", "convolutions", "projections"],
    "text_encoder_learning_rate": 1e-3,
    "vectors_learning_rate": 1e-2,
}
FULL = {"kind": "full", "text_encoder_learning_rate": 1e-4, "ema_decay": 0.9}
WORDED = {**FULL, "vectors_learning_rate": 1e-2}


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


def run_together(folder: Path, hparams: dict[str, Any], **arguments: Any) -> Path:
    """Run on two processes that share the work."""
    meeting = folder.with_name(f"{folder.name} {arguments}")
    folder.mkdir(exist_ok=True)
    identify(folder)  # as the launcher does, before there is a process

    def process(rank: int) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
        run(folder, hparams, rendezvous=f"file://{meeting}", **arguments)

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=process, args=(rank,), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(300)
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0, 0]
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
    export = last(folder) / "export"
    files = [path for path in sorted(export.rglob("*")) if path.is_file()]
    return {str(path.relative_to(export)): path.read_bytes() for path in files}


def learnt(folder: Path) -> dict[str, torch.Tensor]:
    """Return what the last checkpoint goes on from, by name."""
    return torch.load(last(folder) / "resume/state.pt", weights_only=True)["method"]


def same(one: Path, other: Path) -> bool:
    """Return whether two runs have learnt the same, to the bit."""
    first, second = learnt(one), learnt(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )
