"""The adapters of a pipeline: where each comes from, its name, and how much it counts."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch

from detsd.adapters import Adapter
from detsd.checkpoints import CheckpointError, distinct, name_of, read_export
from detsd.concepts import ADAPTER_FILE, Concept, ConceptError
from detsd.request import Adapters, RequestError

Source = Adapter | str | Path
Asked = Mapping[str, float] | Sequence[str | tuple[str, float]] | str | None


class Loaded(NamedTuple):
    """An adapter under the name that a pipeline has for it."""

    name: str
    adapter: Adapter
    scale: float
    concepts: tuple[Concept, ...]  # learnt together with it


def find_adapters(given: Any) -> list[Loaded]:
    """Return the adapters of one source, or of several; each may be in a pair with its scale.

    A source is a record, a file, a checkpoint folder or the UUID of a Determined checkpoint.
    """
    found: dict[str, Loaded] = {}
    for source, scale in _pairs(given, (Adapter, str, Path), lambda source: 1.0):
        told = "adapter" if isinstance(source, Adapter) else name_of(source)
        name = distinct(told, found)
        adapter, concepts = _read(source)
        found[name] = Loaded(name, adapter, _scale(name, scale), concepts)
    return list(found.values())


def brought_along(adapters: Iterable[Loaded], there: Iterable[Concept]) -> list[Concept]:
    """Return the concepts that adapters were learnt with and that are not there already."""
    known = {concept.name: concept for concept in there}
    found = []
    for loaded in adapters:
        for concept in loaded.concepts:
            other = known.setdefault(concept.name, concept)
            if other is concept:
                found.append(concept)
            elif not _same(other, concept):
                raise ConceptError(
                    f"{loaded.name} was learnt with another {concept.name} than the one that is "
                    f"there; its file {ADAPTER_FILE} alone brings no concept along"
                )
    return found


def chosen(loaded: Mapping[str, float], asked: Asked) -> Adapters:
    """Return what counts of the adapters that were loaded: as they were, or as a call asks."""
    if asked is None:
        return _canonical(loaded, loaded) if loaded else None
    scales = dict(_pairs(asked, (str,), lambda name: loaded.get(name, 1.0)))
    for name in scales:
        if name not in loaded:
            known = ", ".join(loaded) or "none"
            raise RequestError(f"adapters: no adapter is called {name!r} (there are: {known})")
    return _canonical(loaded, {name: _scale(name, scale) for name, scale in scales.items()})


def _canonical(order: Iterable[str], scales: Mapping[str, float]) -> Adapters:
    # In one order, and without what does not count: what makes the same images is equal.
    return tuple((name, scales[name]) for name in order if scales.get(name))


def _pairs(given: Any, kinds: tuple[type, ...], scale_of: Callable[[Any], float]) -> Iterable[Any]:
    if isinstance(given, Mapping):
        return given.items()
    is_pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Real)
    if isinstance(given, kinds) or is_pair:
        given = [given]
    return [one if isinstance(one, (tuple, list)) else (one, scale_of(one)) for one in given]


def _read(source: Source) -> tuple[Adapter, tuple[Concept, ...]]:
    if isinstance(source, Adapter):
        return source, ()
    export = read_export(source)
    if export.model:
        raise CheckpointError(f"{source}: holds a whole model, not an adapter: name it as the base")
    if not export.adapter:
        raise CheckpointError(f"{source}: holds a concept and no adapter: name it in concepts")
    return export.adapter, export.concepts


def _same(one: Concept, other: Concept) -> bool:
    vectors = one.vectors
    return vectors.keys() == other.vectors.keys() and all(
        torch.equal(vectors[key], other.vectors[key]) for key in vectors
    )


def _scale(name: str, scale: Any) -> float:
    if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
        raise RequestError(f"adapters: the scale of {name} is a number, found {scale!r}")
    return float(scale)
