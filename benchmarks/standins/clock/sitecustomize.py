"""Notes when each step of an optimizer ends, and what a process has taken of the device, whatever
script runs: put on PYTHONPATH, with a file's name in BENCHMARK_CLOCK, Python imports it by itself.
"""

import atexit
import os
import sys
import time
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

WATCHED = "torch.optim.optimizer"
waited = False


class _Finder(MetaPathFinder):
    """Lets the module be found as ever, and adds to it what notes the steps."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != WATCHED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            _note_steps(spec.loader)
        return spec


def _note_steps(loader: Loader) -> None:
    load = loader.exec_module

    def exec_module(module: Any) -> None:
        load(module)
        module.register_optimizer_step_post_hook(_note_step)

    loader.exec_module = exec_module  # type: ignore[method-assign]


def _note_step(*_: Any) -> None:
    global waited
    import torch

    if not waited and torch.cuda.is_available():
        # Of the first step the end is asked for. Waiting for the others, too, would take from them
        # what is done beside them; a GPU lets nobody get far ahead of it.
        torch.cuda.synchronize()
    waited = True
    _note("step")


def _note(what: str) -> None:
    # Not imported for this: a process that has no use for torch has taken nothing.
    torch = sys.modules.get("torch")
    used = torch.cuda.max_memory_allocated() if torch and torch.cuda.is_initialized() else 0
    with open(os.environ["BENCHMARK_CLOCK"], "a") as file:  # noqa: PTH123, before all else
        file.write(f"{what} {time.monotonic()} {used}\n")


if os.environ.get("BENCHMARK_CLOCK"):
    sys.meta_path.insert(0, _Finder())
    atexit.register(_note, "end")
