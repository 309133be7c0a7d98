"""A table of what was learnt: for each file its words and adapters, and what they are for."""

import json
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from detsd.adapters import Adapter
from detsd.concepts import Concept
from detsd.embeddings import ENCODERS
from detsd.leaderboard import aligned
from detsd.learnt import read_learnt
from detsd.norms import Norms, mean_norm, norms_of
from detsd.reason import one_line
from detsd.text import FAMILIES

Row = dict[str, Any]  # of plain values, as JSON has them
LONGEST = 48  # letters of a cell

_WORDS = ("file", "concept", "vectors", "width", "family", "norm", "norm_ratio", "initializer")
_ADAPTERS = ("file", "adapter", "layers", "ranks", "family")
_BOTH = ("steps", "base_model")


class ListError(ValueError):
    """What a list is to be compared with is not there."""


def rows_of(
    sources: Sequence[str], model: Path | None, skip: Callable[[ValueError], None]
) -> list[Row]:
    """Return a row for each concept and adapter; `skip` is told of what cannot be read.

    Vectors are compared with the vocabulary of `model`; without it, with that of the base model
    they name, if that is a folder here.
    """
    norms = None if model is None else norms_of(model)
    if model is not None and norms is None:
        raise ListError(
            f"--model: {model} has no text encoder's vocabulary; a folder in diffusers' layout is "
            "wanted, with weights in safetensors"
        )
    rows = []
    for source in sources:
        for one in read_learnt(source, skip=skip):
            about = {key: _plain(one.what.about.get(key)) for key in _BOTH}
            if isinstance(one.what, Adapter):
                row = _of_adapter(one.what)
            else:
                row = _of_concept(one.what, norms or _own_norms(about["base_model"]))
            rows.append({"file": str(one.file), **row, **about})
    return rows


def as_lines(rows: Sequence[Row]) -> str:
    """Return the rows as JSON, each in a line."""
    return "\n".join(json.dumps(row, allow_nan=False) for row in rows)


def as_tables(rows: Sequence[Row]) -> str:
    """Return the rows as text to read: the concepts, and then the adapters."""
    heads = ((*_WORDS, *_BOTH), (*_ADAPTERS, *_BOTH))
    tables = [
        [head, *([_cell(name, row[name]) for name in head] for row in rows if head[1] in row)]
        for head in heads
    ]
    return "\n\n".join(aligned(table) for table in tables if len(table) > 1)


def _of_concept(concept: Concept, norms: Norms | None) -> Row:
    rows = {key: concept.vectors[key] for key in ENCODERS if key in concept.vectors}
    widths = [one.shape[1] for one in rows.values()]
    return {
        "concept": concept.name,
        "vectors": concept.num_vectors,
        "width": widths,
        "family": FAMILIES.get(tuple(widths)),
        "norm": [_plain(mean_norm(one)) for one in rows.values()],
        "norm_ratio": norms.ratio(concept) if norms else None,
        "initializer": concept.initializer,
    }


def _of_adapter(adapter: Adapter) -> Row:
    layers = adapter.layers.values()
    return {
        "adapter": "LoRA" if all(layer.magnitude is None for layer in layers) else "DoRA",
        "layers": len(layers),
        "ranks": sorted({layer.rank for layer in layers}),
        "family": _plain(adapter.about.get("family")),
    }


def _own_norms(base_model: object) -> Norms | None:
    try:
        return norms_of(Path(base_model)) if isinstance(base_model, str) else None
    except (OSError, ValueError):  # what a stranger's file says may be no path at all
        return None


def _plain(value: object) -> str | int | float | None:
    if isinstance(value, float) and not isfinite(value):  # which JSON has no word for
        return None
    return value if isinstance(value, str | int | float) else None


def _cell(name: str, value: Any) -> Any:
    """Return it in a word or a few, and without what a terminal would obey."""
    if isinstance(value, list):
        shown = ("?" if one is None else f"{one:.4g}" for one in value)
        return ("," if name == "ranks" else "+").join(shown)
    if not isinstance(value, str):
        return value
    return one_line(value, len(value) if name == "file" else LONGEST) or None
