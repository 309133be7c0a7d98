"""What a container's mounts do. This file knows which paths of Determined's client are its own.

Under /run/determined they would make every process of this machine believe it is on a cluster,
so each Python that a container starts looks for them in the container's folder.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(os.environ["CONTAINER_FOLDER"])


def _files(info: ModuleType) -> None:
    kinds = {
        "cluster": info.ClusterInfo,
        "trial": info.TrialInfo,
        "rendezvous": info.RendezvousInfo,
        "resources": info.ResourcesInfo,
    }
    for name, kind in kinds.items():
        path = (str(FOLDER / "info" / f"{name}.json"),)
        kind._from_file.__func__.__defaults__ = path
        kind._to_file.__defaults__ = path


def _model_copy(constants: ModuleType) -> None:
    constants.MANAGED_TRAINING_MODEL_COPY = str(FOLDER / "model")


def _no_link(util: ModuleType) -> None:
    util.force_create_symlink = lambda folder, _: Path(folder).mkdir(exist_ok=True)


class Mounts:
    """Finds Determined's modules, and changes them once they are loaded."""

    changes = {
        "determined._info": _files,
        "determined.constants": _model_copy,
        "determined.util": _no_link,
    }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        change = self.changes.get(name)
        spec = PathFinder.find_spec(name, path) if change else None
        if change is None or spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Mounts())
