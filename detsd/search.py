"""Determined's rules by which hyperparameters with ranges in them become the points of a grid."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from detsd.config import ConfigError

RANGES = ("int", "double", "log")
KINDS = ("const", "categorical", *RANGES)
Path = tuple[str, ...]


def expand_grid(hparams: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every point of the grid, the first axis slowest, as the master lists them."""
    if not hparams:
        return []  # as the master has it: no axis, no trial
    axes = list(_axes(hparams, ()))
    paths = [path for path, _ in axes]
    return [
        _nest(zip(paths, values, strict=True))
        for values in itertools.product(*(values for _, values in axes))
    ]


def trials_in_order(hparams: Mapping[str, Any], searcher: str) -> list[dict[str, Any]]:
    """Return the points in the order in which trials are made of them: from the list's end."""
    if searcher == "single":
        drawn = [".".join(path) for path, values in _axes(hparams, ()) if len(values) > 1]
        if drawn:
            raise ConfigError(
                [
                    f"hyperparameters.{name}: searcher `single` would draw it at random; write a "
                    "value, or use searcher.name: grid"
                    for name in drawn
                ]
            )
        return expand_grid(hparams) or [{}]
    return expand_grid(hparams)[::-1]


def _axes(value: Any, path: Path) -> Iterator[tuple[Path, list[Any]]]:
    if not isinstance(value, Mapping) or not value:
        yield path, [value]
    elif "type" in value:
        yield path, _values(value, ".".join(("hyperparameters", *path)))
    else:
        for key in sorted(value, key=lambda key: str(key).encode()):
            yield from _axes(value[key], (*path, str(key)))


def _values(parameter: Mapping[str, Any], where: str) -> list[Any]:
    kind = parameter["type"]
    if kind not in KINDS:
        raise ConfigError([f"{where}.type: one of {', '.join(KINDS)} is wanted, found {kind!r}"])
    if kind == "const":
        return [_needed(parameter, "val", where)]
    if kind == "categorical":
        values = _needed(parameter, "vals", where)
        if not isinstance(values, list) or not values:
            raise ConfigError([f"{where}.vals: a list of values is wanted, found {values!r}"])
        return values
    return _spread(parameter, kind, where)


def _spread(parameter: Mapping[str, Any], kind: str, where: str) -> list[Any]:
    low, high = (_number(parameter, key, where) for key in ("minval", "maxval"))
    count = int(_number(parameter, "count", where))
    if not low < high or count < 1:
        raise ConfigError([f"{where}: minval < maxval and count ≥ 1 are wanted"])
    if kind == "int":
        return [_round(x) for x in _even(low, high, min(count, int(high - low) + 1))]
    if kind == "double":
        return _even(low, high, count)
    base = _number({"base": 10, **parameter}, "base", where)
    try:
        return [base**x for x in _even(low, high, count)]
    except (OverflowError, ZeroDivisionError):
        raise ConfigError([f"{where}: {base} to the power of {high} is no number"]) from None


def _even(low: float, high: float, count: int) -> list[float]:
    if count == 1:
        return [(low + high) / 2]
    return [low + place * (high - low) / (count - 1) for place in range(count)]


def _round(value: float) -> int:
    # Go rounds halves away from zero, Python to even.
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _needed(parameter: Mapping[str, Any], key: str, where: str) -> Any:
    if parameter.get(key) is None and key != "val":
        raise ConfigError([f"{where}.{key}: missing; type {parameter['type']} needs it"])
    return parameter.get(key)


def _number(parameter: Mapping[str, Any], key: str, where: str) -> float:
    value = _needed(parameter, key, where)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError([f"{where}.{key}: a number is wanted, found {value!r}"])
    return value


def _nest(items: Iterator[tuple[Path, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in items:
        *parents, last = path
        here = tree
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = value
    return tree
