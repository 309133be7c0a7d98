"""What a file with a learnt word holds, whatever kind of file it is; nothing in it is run."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from detsd.carriers import is_picture, read_picture
from detsd.tensorfile import open_tensors
from detsd.torchfile import is_torch_file, read_torch_file

MOST_BYTES = 1 << 25  # of a word's: 75 vectors of the largest encoder are a third of a megabyte
MOST_TENSORS = 1000
MOST_JSON = 1 << 20
MOST_LEVELS = 50
OF_COG = ("text_encoders_0", "text_encoders_1")
COG_WORDS = "special_params.json"  # lies beside embeddings.pti, and says what they are called


class Content(NamedTuple):
    """Tensors and plain values by name, and what the file says of itself."""

    values: Mapping[str, Any]
    metadata: Mapping[str, str]


def read_content(path: Path, prefix: str) -> Content:
    """Return what the file holds, or raise a ValueError.

    Where names begin with `prefix`, the words in an adapter's file, it is those alone.
    """
    with path.open("rb") as file:
        start = file.read(16)
    # The length that a safetensors file begins with may be anything, a pickle's start too.
    if start[8:9] == b"{":
        return _read_safetensors(path, prefix)
    if is_picture(start):
        _check_size(path.stat().st_size)
        return Content(read_picture(path), {})
    if not is_torch_file(start):
        return _read_safetensors(path, prefix)
    _check_size(path.stat().st_size)
    values = read_torch_file(path)
    if not isinstance(values, dict):
        raise ValueError(f"holds a {type(values).__name__}, where tensors with names are wanted")
    return Content({str(key): value for key, value in values.items()}, {})


def _read_safetensors(path: Path, prefix: str) -> Content:
    try:
        with open_tensors(path) as file:
            keys = sorted(file.keys())
            wanted = [key for key in keys if key.startswith(prefix)] or keys
            if len(wanted) > MOST_TENSORS:
                raise ValueError(f"has {len(wanted)} tensors: {_other_than_a_concept(wanted)}")
            _check_size(4 * sum(prod(file.get_slice(key).get_shape()) for key in wanted))
            values = {key: file.get_tensor(key) for key in wanted}
            beside = _words_of_cog(path) if set(wanted) <= set(OF_COG) else {}
            return Content(values, {**beside, **(file.metadata() or {})})
    except SafetensorError as error:
        raise ValueError(f"is no file of a concept's, or a damaged one ({error})") from None


def _words_of_cog(path: Path) -> dict[str, str]:
    beside = path.with_name(COG_WORDS)
    if not beside.is_file():
        return {}
    with beside.open(encoding="utf-8", errors="replace") as file:
        return {COG_WORDS: file.read(MOST_JSON)}


def _other_than_a_concept(keys: Sequence[str]) -> str:
    return "an adapter" if any("lora" in key for key in keys) else "a whole model, perhaps"


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"has {size / 1e6:.0f} MB: a whole model, perhaps, but no concept")


def read_json(text: str) -> dict[str, Any]:
    """Return the object in the text, or raise a ValueError."""
    if len(text) > MOST_JSON:
        raise ValueError(f"has {len(text)} letters of notes, {MOST_JSON} at most are read")
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("has half a letter, which cannot be written again") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"is a {type(found).__name__}, where names and values are wanted")
    if _is_deep(found):
        raise ValueError("is nested too deeply")
    return found


def _is_deep(value: Any) -> bool:
    # What was only just read is not written, from a function that is called by more functions.
    level = [value]
    for _ in range(MOST_LEVELS):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
    return bool(level)
