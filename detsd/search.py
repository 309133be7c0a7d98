"""Determined's rules by which hyperparameters with ranges in them become the points of a search."""

import hashlib
import itertools
import json
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
    axes = list(_axes(hparams))
    paths = [path for path, _ in axes]
    return [
        _nest(zip(paths, values, strict=True))
        for values in itertools.product(*(values for _, values in axes))
    ]


def trials_in_order(hparams: Mapping[str, Any], searcher: str) -> list[dict[str, Any]]:
    """Return the points in the order in which trials are made of them: from the list's end."""
    if searcher == "single":
        if drawn := searched(hparams):
            raise ConfigError(
                [
                    f"hyperparameters.{name}: searcher `single` would draw it at random; write a "
                    "value, or use searcher.name: grid or random"
                    for name in drawn
                ]
            )
        return expand_grid(hparams) or [{}]
    return expand_grid(hparams)[::-1]


def draw_point(hparams: Mapping[str, Any], trial: int, seed: int) -> dict[str, Any]:
    """Return the point of a trial of a random search, whatever other trials there are."""
    return _nest(
        (path, _draw(parameter, _where(path), _chance(seed, trial, path)))
        for path, parameter in _parameters(hparams, ())
    )


def searched(hparams: Mapping[str, Any]) -> list[str]:
    """Return the dotted name of everything that has more than one value to choose from."""
    return [
        ".".join(path)
        for path, parameter in _parameters(hparams, ())
        if (kind := _kind(parameter, _where(path))) in RANGES
        or (kind == "categorical" and len(_choices(parameter, _where(path))) > 1)
    ]


def _parameters(value: Any, path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    if not isinstance(value, Mapping) or not value:
        if path:  # nothing at all, not even a constant
            yield path, {"type": "const", "val": value}
    elif "type" in value:
        yield path, value
    else:
        for key in sorted(value, key=lambda key: str(key).encode()):
            yield from _parameters(value[key], (*path, str(key)))


def _where(path: Path) -> str:
    return ".".join(("hyperparameters", *path))


def _axes(hparams: Mapping[str, Any]) -> Iterator[tuple[Path, list[Any]]]:
    for path, parameter in _parameters(hparams, ()):
        yield path, _values(parameter, _where(path))


def _values(parameter: Mapping[str, Any], where: str) -> list[Any]:
    kind = _kind(parameter, where)
    if kind == "const":
        return [_needed(parameter, "val", where)]
    if kind == "categorical":
        return _choices(parameter, where)
    low, high = _bounds(parameter, where)
    count = int(_number(parameter, "count", where))
    if count < 1:
        raise ConfigError([f"{where}: count ≥ 1 is wanted"])
    if kind == "int":
        return [_round(x) for x in _even(low, high, min(count, int(high - low) + 1))]
    spread = _even(low, high, count)
    return spread if kind == "double" else [_power(parameter, x, where) for x in spread]


def _draw(parameter: Mapping[str, Any], where: str, chance: float) -> Any:
    kind = _kind(parameter, where)
    if kind == "const":
        return _needed(parameter, "val", where)
    if kind == "categorical":
        choices = _choices(parameter, where)
        return choices[int(chance * len(choices))]
    low, high = _bounds(parameter, where)
    if kind == "int":
        return int(low) + int(chance * (high - low + 1))  # maxval is one of them
    value = low + chance * (high - low)
    return value if kind == "double" else _power(parameter, value, where)


def _chance(seed: int, trial: int, path: Path) -> float:
    # A hash, and no generator: more trials, or another hyperparameter, change no older draw.
    text = json.dumps([seed, trial, path])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # of [0, 1)


def _kind(parameter: Mapping[str, Any], where: str) -> str:
    kind = parameter["type"]
    if kind not in KINDS:
        raise ConfigError([f"{where}.type: one of {', '.join(KINDS)} is wanted, found {kind!r}"])
    return kind


def _choices(parameter: Mapping[str, Any], where: str) -> list[Any]:
    values = _needed(parameter, "vals", where)
    if not isinstance(values, list) or not values:
        raise ConfigError([f"{where}.vals: a list of values is wanted, found {values!r}"])
    return values


def _bounds(parameter: Mapping[str, Any], where: str) -> tuple[float, float]:
    low, high = (_number(parameter, key, where) for key in ("minval", "maxval"))
    if not low < high:
        raise ConfigError([f"{where}: minval < maxval is wanted, found {low} and {high}"])
    if parameter["type"] == "int" and not (float(low).is_integer() and float(high).is_integer()):
        raise ConfigError([f"{where}: whole numbers are wanted, found {low} and {high}"])
    return low, high


def _power(parameter: Mapping[str, Any], exponent: float, where: str) -> float:
    base = _number({"base": 10, **parameter}, "base", where)
    if base <= 0:
        raise ConfigError([f"{where}.base: a number above 0 is wanted, found {base}"])
    try:
        return base**exponent
    except OverflowError:
        raise ConfigError([f"{where}: {base} to the power of {exponent} is no number"]) from None


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
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
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
