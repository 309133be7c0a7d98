"""The points of an experiment. This file knows how the master finds them, whatever the bundle says.

Written apart from detsd/search.py, which has to find the same.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from tests.cluster.records import RefusedError

Axis = list[tuple[tuple[str, ...], Any]]  # of values, each with the keys that lead to it


def points(hparams: Mapping[str, Any], searcher: str) -> list[dict[str, Any]]:
    """Return the hyperparameters of each trial, in the order of their creation."""
    axes = list(_axes((), hparams)) if hparams else []
    if searcher == "single":
        if any(len(axis) > 1 for axis in axes):
            raise RefusedError(400, "this master draws nothing at random")
        return [_point(axis[0] for axis in axes)]
    if searcher != "grid":
        raise RefusedError(400, f"this master has no searcher {searcher}")
    listed = [_point(values) for values in itertools.product(*axes)] if axes else []
    listed.reverse()
    return listed


def _axes(route: tuple[str, ...], value: Any) -> Iterator[Axis]:
    if not isinstance(value, Mapping) or not value:
        yield [(route, value)]
    elif "type" in value:
        yield [(route, one) for one in _values(value)]
    else:
        for key in sorted(value, key=str.encode):
            yield from _axes((*route, key), value[key])


def _values(kind: Mapping[str, Any]) -> list[Any]:
    match kind:
        case {"type": "const", "val": value}:
            return [value]
        case {"type": "categorical", "vals": values}:
            return values
        case {"type": "int", "minval": low, "maxval": high, "count": int(count)} if count >= 1:
            return [_rounded(x) for x in _spread(low, high, min(count, high - low + 1))]
        case {"type": "double", "minval": low, "maxval": high, "count": int(count)} if count >= 1:
            return _spread(low, high, count)
        case {"type": "log", "minval": low, "maxval": high, "count": int(count)} if count >= 1:
            return [kind.get("base", 10) ** x for x in _spread(low, high, count)]
    raise RefusedError(400, f"invalid experiment configuration: {kind}")


def _spread(low: float, high: float, count: int) -> list[float]:
    if low >= high:
        raise RefusedError(400, f"invalid experiment configuration: {low} is not below {high}")
    if count == 1:
        return [(low + high) / 2]
    return [low + i * (high - low) / (count - 1) for i in range(count)]


def _rounded(value: float) -> int:
    whole = math.trunc(value)
    return whole + (0 if abs(value - whole) < 0.5 else int(math.copysign(1, value)))


def _point(values: Any) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for route, value in values:
        inner = point
        for key in route[:-1]:
            inner = inner.setdefault(key, {})
        inner[route[-1]] = value
    return point
