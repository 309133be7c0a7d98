"""What each step of ours spends its time on. This file knows where a step's parts begin and end.

Put on PYTHONPATH; a line a step goes to the file in BENCHMARK_PARTS: the process, when the step
ended, and the seconds of each part since the step before. On a GPU each part is waited for, and
does not overlap with the next as it would: there shares count, and not the samples a second.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

WATCHED = "detsd.finetune"
_seconds: dict[str, float] = {}


class _Finder(MetaPathFinder):
    """Lets the loop's module be found as ever; all that it is made of is there once it is."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != WATCHED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            _time_parts_after(spec.loader)
        return spec


def _time_parts_after(loader: Loader) -> None:
    load = loader.exec_module

    def exec_module(module: Any) -> None:
        load(module)
        _time_parts()

    loader.exec_module = exec_module  # type: ignore[method-assign]


def _time_parts() -> None:
    import torch
    from torch import distributed
    from torch.optim import optimizer

    from detsd.batches import Batches
    from detsd.methods import Method

    Method.losses = _timed("forward", Method.losses)
    torch.Tensor.backward = _timed("backward", torch.Tensor.backward)
    distributed.all_reduce = _timed("exchange", distributed.all_reduce)
    Batches.micro_batches = _timed_turns("batches", Batches.micro_batches)
    begun: list[float] = []

    def before(*_: Any) -> None:
        begun.append(_now())

    def after(*_: Any) -> None:
        _add("optimizer", _now() - begun.pop())
        _write()

    optimizer.register_optimizer_step_pre_hook(before)
    optimizer.register_optimizer_step_post_hook(after)


def _timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(work)
    def timed(*arguments: Any, **more: Any) -> Any:
        begun = _now()
        try:
            return work(*arguments, **more)
        finally:
            _add(part, _now() - begun)

    return timed


def _timed_turns(part: str, work: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Time what lies before each thing that is yielded, and not what is done with it."""

    @functools.wraps(work)
    def timed(*arguments: Any) -> Iterator[Any]:
        turn = _timed(part, functools.partial(next, work(*arguments), None))
        while (item := turn()) is not None:
            yield item

    return timed


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def _add(part: str, seconds: float) -> None:
    _seconds[part] = _seconds.get(part, 0.0) + seconds


def _write() -> None:
    line = {"rank": int(os.environ.get("RANK", 0)), "at": time.monotonic(), **_seconds}
    _seconds.clear()
    with open(os.environ["BENCHMARK_PARTS"], "a") as file:  # noqa: PTH123, as the clock does
        file.write(json.dumps(line) + "\n")


if os.environ.get("BENCHMARK_PARTS"):
    sys.meta_path.insert(0, _Finder())
