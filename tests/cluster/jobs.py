"""A training and a grid. This file knows what each has to come to, whatever happens to it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detsd.fetch import fetch_checkpoint
from detsd.gather import gather
from detsd.imagestore import read_records
from tests.cluster.records import Trial
from tests.conftest import ROOT

LAUNCH = "python3 -m determined.launch.torch_distributed python3 -m"
SAME_VALUES = 0.999  # of all; the others differ by 1/255: what shares a batch moves the last bits


class Training:
    """A concept's training: its exports are an undisturbed run's, bit for bit."""

    name = "training"
    sizes = (140, 200)  # steps at first, and when a finished one is continued
    any_slots = False  # its sums depend on the number of processes
    undisturbed_slots = (1, 2)

    def __init__(self, model: Path):
        self.config: dict[str, Any] = {
            "name": "chaos_training",
            "entrypoint": f"{LAUNCH} detsd.finetune",
            "searcher": {"name": "single", "metric": "loss"},
            "checkpoint_storage": {"save_trial_latest": 1000},
            "hyperparameters": {
                "model": {"pretrained_model_name_or_path": str(model)},
                "concepts": {
                    "concept_strs": "det-logo",
                    "initializer_strs": "brain logo, sharp lines",
                    "learnable_properties": "object",
                    "img_dirs": str(ROOT / "det_logos"),
                },
                "training": {
                    "num_sgd_steps": self.sizes[0],
                    "checkpoint_freq": 20,
                    "metric_report_freq": 5,
                },
                "inference": {"inference_prompts": ["a det-logo"], "num_inference_steps": 2},
            },
        }
        self._straight: dict[int, Trial] = {}  # by processes

    def sized(self, size: int) -> list[str]:
        """Return what makes it so long on the command line of `det`."""
        return [f"--config=hyperparameters.training.num_sgd_steps={size}"]

    def learn(self, straight: Trial) -> None:
        """Take an undisturbed run of the larger size for what all have to come to."""
        self._straight[straight.slots] = straight

    def count(self, trial: Trial) -> int:
        """Return how many images there are."""
        return 0

    def differences(self, trial: Trial, size: int) -> Iterator[str]:
        """Yield what a finished trial has that the undisturbed one has not, or the other way."""
        straight = self._straight[trial.slots]
        mine, wanted = _export(trial, size), _export(straight, size)
        if mine.keys() != wanted.keys():
            yield f"it exports {sorted(mine)} and not {sorted(wanted)}"
        yield from (f"{name} differs" for name in mine if mine[name] != wanted.get(name))
        said = trial.metrics("validation")
        for step, values in straight.metrics("validation").items():
            if step <= size and said.get(step) != values:
                yield f"validation at step {step}: {said.get(step)} and not {values}"


class Grid:
    """A grid of images: each is there once, and is an undisturbed run's."""

    name = "grid"
    sizes = (20, 30)  # seeds of each cell, likewise
    any_slots = True
    undisturbed_slots = (2,)
    cells = 8

    def __init__(self, model: Path, folder: Path):
        self.config: dict[str, Any] = {
            "name": "chaos_grid",
            "entrypoint": f"{LAUNCH} detsd.grid",
            "searcher": {"name": "single", "metric": "prompt_adherence"},
            "checkpoint_storage": {"save_trial_latest": 1000},
            "hyperparameters": {
                "pipeline": {"pretrained_model_name_or_path": str(model)},
                "scorer_name_or_path": str(ROOT / "demo" / "model" / "scorer"),
                "sweep": {
                    "prompt": ["a", "a brain", "the lines", "soft circles"],
                    "guidance_scale": [2, 4],
                    "steps": 10,
                    "seed": {"first": 1, "count": self.sizes[0]},
                },
                "batch_size": 4,
                "save_freq": 3,
            },
        }
        self._folder = folder
        self._straight: dict[str, np.ndarray] = {}

    def sized(self, size: int) -> list[str]:
        """Return what makes it so large on the command line of `det`."""
        return [f"--config=hyperparameters.sweep.seed.count={size}"]

    def learn(self, straight: Trial) -> None:
        """Take an undisturbed run of the larger size for what all have to come to."""
        self._straight = self._images(straight)

    def count(self, trial: Trial) -> int:
        """Return how many images there are."""
        return len(_kept(trial))

    def differences(self, trial: Trial, size: int) -> Iterator[str]:
        """Yield what a finished trial has that the undisturbed one has not, or the other way."""
        kept = Counter(_kept(trial))
        yield from (f"{name} lies in {n} checkpoints" for name, n in kept.items() if n > 1)
        mine = self._images(trial)
        if len(mine) != size * self.cells or len(kept) != len(mine):
            yield f"{len(mine)} images, {len(kept)} files and not {size * self.cells}"
        if unknown := mine.keys() - self._straight.keys():
            yield f"{len(unknown)} images that nobody wants"
            return
        off = np.stack([np.abs(mine[id] - self._straight[id]) for id in mine])
        if off.max() > 1 or (off == 0).mean() < SAME_VALUES:
            yield f"pixels differ by up to {off.max()}, and {(off > 0).mean():.2%} of them at all"

    def _images(self, trial: Trial) -> dict[str, np.ndarray]:
        assert trial.latest is not None
        folder = self._folder / trial.latest["uuid"]
        gather(trial.latest["uuid"], folder)
        records = read_records(folder / "images.jsonl")
        assert len(records) == len({record["id"] for record in records})
        return {
            record["id"]: np.asarray(Image.open(folder / record["file"])).astype(int)
            for record in records
        }


Job = Training | Grid


def _export(trial: Trial, step: int) -> dict[str, bytes]:
    # A step may have two: what a pause had cut off was done after the first.
    of_step = [one for one in trial.checkpoints if one["metadata"]["steps_completed"] == step]
    folder = fetch_checkpoint(of_step[-1]["uuid"]) / "export"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _kept(trial: Trial) -> list[str]:
    """Return the images' files in all checkpoints."""
    files = [name for one in trial.checkpoints for name in one["resources"]]
    return [name for name in files if name.endswith(".png")]
