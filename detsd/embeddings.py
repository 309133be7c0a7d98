"""The layouts in which tools keep the vectors of a learnt word: how each is known, and read."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from detsd.contents import COG_WORDS, Content, read_json

# What tools call a tensor that has no name of its own.
NAMELESS = ("", "*", "emb_params", "emp_params", "clip_l", "clip_g")
ENCODERS = ("clip_l", "clip_g")
BUNDLE = "bundle_emb."
EMBEDDING_FLAG = "<embed>"
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
    knows: Callable[[Content], bool]
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
    """Rows without words: which are whose is in a file beside, "TOK": "<s0><s1>"."""
    words = read_json(content.metadata.get(COG_WORDS, "{}"))
    for name, places in words.items() or [("", None)]:
        mine = [int(place) for place in re.findall(r"<s(\d+)>", str(places))]
        vectors = {_COG[key]: rows[mine] if mine else rows for key, rows in content.values.items()}
        yield Embedding(name, vectors)


def _flagged(content: Content) -> Iterator[Embedding]:
    """Words among the layers of an adapter, by what the metadata says of their names."""
    for key, rows in content.values.items():
        if content.metadata.get(key) == EMBEDDING_FLAG:
            yield Embedding(key, {"clip_l": rows})


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
    if others := sorted(set(read) - set(NAMELESS)):
        raise ValueError(
            f"has {name or 'vectors'} for {', '.join(others)}, which no model here has"
        )
    vectors = {key if key in ENCODERS else "clip_l": rows for key, rows in read.items()}
    left_out = tuple(sorted(set(parts) - set(read)))
    steps = metadata.get("step")  # ai-toolkit writes it so
    about = {"steps": int(steps)} if steps is not None and steps.isdecimal() else {}
    return Embedding(name or str(metadata.get("name", "")), vectors, "", about, left_out)


def _is_determined(content: Content) -> bool:
    entries = content.values.values()
    return all(isinstance(entry, dict) and "learned_embeddings" in entry for entry in entries)


def _is_automatic(content: Content) -> bool:
    return isinstance(content.values.get("string_to_param"), dict)


def _is_bundled(content: Content) -> bool:
    return any(key.startswith(BUNDLE) for key in content.values)


def _is_flagged(content: Content) -> bool:
    return any(content.metadata.get(key) == EMBEDDING_FLAG for key in content.values)


def _are_tokens(content: Content) -> bool:
    """Whether each is a word's, and none of an encoder beside something else."""
    values = content.values
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
    Layout("a1111", _is_automatic, _automatic),
    Layout("onetrainer's bundle", _is_bundled, _bundled),
    Layout("cloneofsimo", _is_flagged, _flagged),
    Layout("cog", lambda content: set(content.values) <= set(_COG), _cog),
    Layout("kohya", lambda content: set(content.values) <= _NAMELESS_KEYS, _nameless),
    Layout("diffusers", _are_tokens, _by_token),
)


def embeddings_in(content: Content) -> list[Embedding]:
    """Return the words in a content of any layout, or raise a ValueError."""
    for layout in LAYOUTS:
        if content.values and layout.knows(content):
            return list(layout.read(content))
    found = ", ".join(sorted(content.values)[:5]) or "nothing"
    other = next((what for end, what in _OTHERS.items() if end in found), None)
    if other is not None:
        raise ValueError(f"holds no concept, but {other}")
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise ValueError(f"holds {found:.200}, which is no concept in a layout of {known}")
