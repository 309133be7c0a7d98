"""The layouts in which tools keep the vectors of a learnt word: how each is known, and read."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from detsd import layouts
from detsd.contents import COG_WORDS, OF_COG, Content, read_json
from detsd.names import BUNDLE, NAMELESS, NAMELESS_KEYS, OF_OUTPUTS

ENCODERS = ("clip_l", "clip_g")
METADATA_KEY = "detsd"  # of our own notes, which other tools pass over
AN_ADAPTER = "an adapter"
EMBEDDING_FLAG = "<embed>"
_COG = dict(zip(OF_COG, ENCODERS, strict=True))
SECOND_WIDTH = 1280  # of the vectors of SDXL's second text encoder
MOST_ROWS = 1000  # a prompt has room for 75 of them


# What AUTOMATIC1111 notes beside a word, and what we call it; the digest is of the model's file.
OF_AUTOMATIC = {
    "step": "steps",
    "sd_checkpoint": "base_digest",
    "sd_checkpoint_name": "base_model",
}


class Embedding(NamedTuple):
    """A word as a file has it; without a name, where the file has none."""

    name: str
    vectors: Mapping[str, torch.Tensor]  # by text encoder
    initializer: str = ""
    about: Mapping[str, Any] = {}
    left_out: str = ""  # what else is there, and is not read


Read = Callable[[Content], Iterator[Embedding]]


class Layout(NamedTuple):
    """What a tool writes: `knows` says whether a content is that, `read` takes it apart."""

    name: str
    knows: Callable[[Content], bool]
    read: Read


def _determined(content: Content) -> Iterator[Embedding]:
    for name, entry in content.values.items():
        rows, phrase = entry["learned_embeddings"], entry.get("initializer_strs")
        vectors = rows if isinstance(rows, dict) else {"clip_l": rows}
        yield Embedding(name, vectors, phrase if isinstance(phrase, str) else "")


def _automatic(content: Content) -> Iterator[Embedding]:
    values = content.values
    about = {
        key: values[theirs]
        for theirs, key in OF_AUTOMATIC.items()
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
    try:
        words = read_json(content.metadata.get(COG_WORDS, "{}"))
    except ValueError as error:
        raise ValueError(f"{COG_WORDS} beside it is damaged ({error})") from None
    places = {
        name: [int(place) for place in re.findall(r"<s(\d+)>", text)]
        for name, text in words.items()
        if isinstance(text, str) and "<s" in text
    }
    count = min(len(rows) for rows in content.values.values())
    for name, mine in places.items() or [("", [*range(count)])]:
        if len({*mine} & {*range(count)}) != len(mine):
            raise ValueError(f"has {count} rows, of which {COG_WORDS} gives others to {name}")
        yield Embedding(name, {_COG[key]: rows[mine] for key, rows in content.values.items()})


def _flagged(content: Content) -> Iterator[Embedding]:
    """Words among the layers of an adapter, by what the metadata says of their names."""
    words = [key for key in content.values if content.metadata.get(key) == EMBEDDING_FLAG]
    layers = len(content.values) - len(words)
    left_out = f"an adapter of {layers} tensors, in a layout that is not read" if layers else ""
    for key in words:
        yield Embedding(key, {"clip_l": content.values[key]}, left_out=left_out)


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
        yield Embedding(token, {"clip_l": rows})


def _of_encoders(
    name: str, parts: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> Embedding:
    read = {key: rows for key, rows in parts.items() if not key.endswith(OF_OUTPUTS)}
    if others := sorted(set(read) - set(NAMELESS)):
        raise ValueError(
            f"has {name or 'vectors'} for {', '.join(others)}, which no model here has"
        )
    vectors = {key if key in ENCODERS else "clip_l": rows for key, rows in read.items()}
    added = ", ".join(sorted(set(parts) - set(read)))
    left_out = f"{added}, which is added to what a text encoder returns" if added else ""
    steps = metadata.get("step", "")  # ai-toolkit writes it so
    about = {"steps": int(steps)} if steps.isdecimal() else {}
    return Embedding(name or _said(metadata, "name"), vectors, "", about, left_out)


def _said(metadata: Mapping[str, str], key: str) -> str:
    """Return a text of the metadata, where ai-toolkit has it in quotes, as JSON."""
    text = metadata.get(key, "")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


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
    tensors = all(isinstance(rows, torch.Tensor) for rows in values.values())
    beside = len(values) > 1 and NAMELESS_KEYS & set(values)
    return tensors and not beside and not what_else(values, content.metadata)


# In the order in which they are tried. A new one is a line here, and what it reads above.
LAYOUTS = (
    Layout("determined", _is_determined, _determined),
    Layout("a1111", _is_automatic, _automatic),
    Layout("onetrainer's bundle", _is_bundled, _bundled),
    Layout("cloneofsimo", _is_flagged, _flagged),
    Layout("cog", lambda content: set(content.values) <= set(_COG), _cog),
    Layout("kohya", lambda content: set(content.values) <= NAMELESS_KEYS, _nameless),
    Layout("diffusers", _are_tokens, _by_token),
)


def embeddings_in(content: Content) -> list[Embedding]:
    """Return the words in a content of any layout, or raise a ValueError."""
    for layout in LAYOUTS:
        if content.values and layout.knows(content):
            found = list(layout.read(content))
            notes = _notes_in(content.metadata) or _notes_in(content.values)
            return [_noted(one, notes, len(found) == 1) for one in found]
    if other := what_else(content.values, content.metadata):
        raise ValueError(f"holds no concept, but {other}")
    found_keys = ", ".join(sorted(content.values)[:5]) or "nothing"
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise ValueError(f"holds {found_keys:.200}, which is no concept in a layout of {known}")


def what_else(names: Collection[str], metadata: Mapping[str, str]) -> str:
    """Return what tensors of these names are, if they are no words'; nothing if they may be."""
    if len(names) == 1 and _notes_in(metadata).get("name") in [*names]:
        return ""  # a word of ours, whatever it is called
    own = [name for name in names if not name.startswith(BUNDLE)]
    if any(layouts.is_a_layers(name) for name in own):
        return AN_ADAPTER
    if any(name.endswith((".weight", ".bias")) for name in own):
        return "a whole model's layers"
    return "a whole model" if "state_dict" in own else ""


def _notes_in(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what we wrote of a word, where it was us."""
    text = texts.get(METADATA_KEY)
    return read_json(text) if isinstance(text, str) else {}


def _noted(one: Embedding, notes: Mapping[str, Any], alone: bool) -> Embedding:
    about = {**one.about, **notes}
    phrase = about.pop("initializer", None)
    return one._replace(
        name=(alone and notes.get("name")) or one.name,
        initializer=phrase if isinstance(phrase, str) else one.initializer,
        about=about,
    )


def checked_vectors(name: str, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return a word's vectors in float32, (vectors, width) for each encoder, or a ValueError."""
    if not all(isinstance(value, torch.Tensor) for value in given.values()):
        raise ValueError(f"tensors are wanted of {name}")
    # Of one vector, files from before there were several have no first dimension.
    rows = {key: value[None] if value.dim() == 1 else value for key, value in given.items()}
    kinds = {str(value.dtype) for value in rows.values() if not value.is_floating_point()}
    if kinds or not set(rows) <= {*ENCODERS}:
        found = f"{', '.join(kinds)} for {', '.join(map(str, rows))}"
        raise ValueError(
            f"numbers for {' and '.join(ENCODERS)} are wanted of {name}, found {found}"
        )
    shapes = {key: tuple(value.shape) for key, value in rows.items()}
    well_formed = all(len(shape) == 2 and all(shape) for shape in shapes.values())
    if not well_formed or len({shape[0] for shape in shapes.values()}) != 1:
        raise ValueError(f"(vectors, width) is wanted of {name}, found {shapes}")
    if len(next(iter(rows.values()))) > MOST_ROWS:
        raise ValueError(f"has {name} with more than {MOST_ROWS} vectors")
    if "clip_l" not in rows or shapes["clip_l"][1] == SECOND_WIDTH:
        raise ValueError(
            f"has {name} for the second text encoder of Stable Diffusion XL alone; the file of the "
            "first is wanted, with this one beside it: learned.safetensors, learned_2.safetensors"
        )
    floats = {key: value.to(torch.float32, copy=True) for key, value in rows.items()}
    if not all(bool(value.isfinite().all()) for value in floats.values()):
        raise ValueError(f"has {name} with vectors that are no numbers, of a run that diverged")
    return floats
