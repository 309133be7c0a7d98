"""The layouts in which tools keep the vectors of a learnt word: how each is known, and read."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from detsd.contents import Content

# What tools call a tensor that has no name of its own.
NAMELESS = ("", "*", "emb_params", "emp_params", "clip_l", "clip_g")
ENCODERS = ("clip_l", "clip_g")
BUNDLE = "bundle_emb."
_COG = {"text_encoders_0": "clip_l", "text_encoders_1": "clip_g"}
OF_OUTPUTS = "_out"  # OneTrainer's vectors that are added behind the text encoder


class Embedding(NamedTuple):
    """A word as a file has it; without a name, where the file has none."""

    name: str
    vectors: Mapping[str, torch.Tensor]  # by text encoder
    initializer: str = ""
    about: Mapping[str, Any] = {}
    left_out: tuple[str, ...] = ()  # what else is there of it, and is not read


Read = Callable[[Content], Iterator[Embedding]]


class Layout(NamedTuple):
    """What a tool writes: `knows` says whether a content is that, `read` takes it apart."""

    name: str
    knows: Callable[[Mapping[str, Any]], bool]
    read: Read


def _determined(content: Content) -> Iterator[Embedding]:
    for name, entry in content.values.items():
        rows = entry["learned_embeddings"]
        vectors = rows if isinstance(rows, dict) else {"clip_l": rows}
        yield Embedding(name, vectors, str(entry.get("initializer_strs", "")))


def _automatic(content: Content) -> Iterator[Embedding]:
    values = content.values
    about = {
        key: values[theirs]
        for theirs, key in {"step": "steps", "sd_checkpoint_name": "base_model"}.items()
        if isinstance(values.get(theirs), int | str)
    }
    for word, rows in values["string_to_param"].items():
        name = values.get("name") if word == "*" else word
        yield Embedding(name if isinstance(name, str) else "", {"clip_l": rows}, about=about)


def _nameless(content: Content) -> Iterator[Embedding]:
    """Tensors by encoder, or one whose name says nothing of the word."""
    yield _of_encoders("", content.values, content.metadata)


def _cog(content: Content) -> Iterator[Embedding]:
    vectors = {_COG[key]: rows for key, rows in content.values.items()}
    yield Embedding(str(content.metadata.get("name", "")), vectors)


def _bundled(content: Content) -> Iterator[Embedding]:
    """Words that lie in an adapter's file: bundle_emb.WORD.ENCODER, and dots may be in WORD."""
    words: dict[str, dict[str, torch.Tensor]] = {}
    for key, rows in content.values.items():
        if not key.startswith(BUNDLE):
            continue
        name, _, part = key.removeprefix(BUNDLE).replace(".string_to_param.*", ".*").rpartition(".")
        words.setdefault(name, {})[part] = rows
    for name, parts in words.items():
        yield _of_encoders(name, parts, {})


def _by_token(content: Content) -> Iterator[Embedding]:
    for token, rows in content.values.items():
        name = content.metadata.get("name") if len(content.values) == 1 else None
        yield Embedding(str(name or token), {"clip_l": rows})


def _of_encoders(
    name: str, parts: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> Embedding:
    read = {key: rows for key, rows in parts.items() if not key.endswith(OF_OUTPUTS)}
    vectors = {key if key in ENCODERS else "clip_l": rows for key, rows in read.items()}
    left_out = tuple(sorted(set(parts) - set(read)))
    steps = metadata.get("step")  # ai-toolkit writes it so
    about = {"steps": int(steps)} if steps is not None and steps.isdecimal() else {}
    return Embedding(name or str(metadata.get("name", "")), vectors, "", about, left_out)


def _is_determined(values: Mapping[str, Any]) -> bool:
    entries = values.values()
    return all(isinstance(entry, dict) and "learned_embeddings" in entry for entry in entries)


def _are_tokens(values: Mapping[str, Any]) -> bool:
    """Whether each is a word's, and none of an encoder beside something else."""
    return all(
        isinstance(rows, torch.Tensor) and not _OF_A_LAYER.search(key)
        for key, rows in values.items()
    ) and not (len(values) > 1 and _NAMELESS_KEYS & set(values))


_OF_A_LAYER = re.compile(r"[._](lora|hada|lokr|oft)[._]|\.(weight|bias|alpha)$")
_OTHERS = {"lora": "an adapter", ".weight": "a whole model's layers", "state_dict": "a whole model"}
_NAMELESS_KEYS = {f"{key}{end}" for key in (*NAMELESS[1:], *ENCODERS) for end in ("", OF_OUTPUTS)}

# In the order in which they are tried. A new one is a line here, and what it reads above.
LAYOUTS = (
    Layout("determined", _is_determined, _determined),
    Layout("a1111", lambda values: isinstance(values.get("string_to_param"), dict), _automatic),
    Layout(
        "onetrainer's bundle",
        lambda values: any(key.startswith(BUNDLE) for key in values),
        _bundled,
    ),
    Layout("cog", lambda values: set(values) <= set(_COG), _cog),
    Layout("kohya", lambda values: set(values) <= _NAMELESS_KEYS, _nameless),
    Layout("diffusers", _are_tokens, _by_token),
)


def embeddings_in(content: Content) -> list[Embedding]:
    """Return the words in a content of any layout, or raise a ValueError."""
    for layout in LAYOUTS:
        if content.values and layout.knows(content.values):
            return list(layout.read(content))
    found = ", ".join(sorted(content.values)[:5]) or "nothing"
    other = next((what for end, what in _OTHERS.items() if end in found), None)
    if other is not None:
        raise ValueError(f"holds no concept, but {other}")
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise ValueError(f"holds {found:.200}, which is no concept in a layout of {known}")
