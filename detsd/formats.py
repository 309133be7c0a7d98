"""The formats that learnt words are written in: in which file, how many in one, its bytes."""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from detsd.embeddings import METADATA_KEY, Embedding
from detsd.tensorfile import Tensors, encode_tensors

Encode = Callable[[Sequence[Embedding]], bytes]

_ANY_TOKEN = 265  # the web UI writes this for "*", and reads it nowhere
_OF_ARCHIVES = ("data.pkl", "version")


class Kind(NamedTuple):
    """A kind of file, and what makes its bytes."""

    suffix: str
    encode: Encode
    holds_several: bool = False


class Format(NamedTuple):
    """What a tool reads: words of models with one text encoder, and of those with two (SDXL)."""

    one: Kind
    two: Kind

    def kind(self, words: Sequence[Embedding]) -> Kind:
        """Return the kind of file for these words."""
        return self.two if any(len(word.vectors) > 1 for word in words) else self.one


def _by_token(words: Sequence[Embedding]) -> bytes:
    (word,) = words
    # Diffusers takes the key of a single tensor for the token.
    return encode_tensors({word.name: word.vectors["clip_l"]}, _metadata(word))


def _by_encoder(words: Sequence[Embedding]) -> bytes:
    (word,) = words
    return encode_tensors(dict(word.vectors), _metadata(word))


def _nameless(words: Sequence[Embedding]) -> bytes:
    (word,) = words
    # No key says what it is called, and with logo_2.safetensors beside, logo would be one of two.
    metadata = {"name": word.name, **_metadata(word)}
    return encode_tensors({"emb_params": word.vectors["clip_l"]}, metadata)


def _automatic(words: Sequence[Embedding]) -> bytes:
    (word,) = words
    steps, base, digest = (word.about.get(key) for key in ("steps", "base_model", "base_digest"))
    values = {
        "string_to_token": {"*": _ANY_TOKEN},
        "string_to_param": {"*": _plain(word.vectors["clip_l"])},
        "name": word.name,
        "step": steps if isinstance(steps, int) else None,
        "sd_checkpoint": digest if isinstance(digest, str) else None,
        "sd_checkpoint_name": base if isinstance(base, str) else None,
    }
    return _archived({**values, METADATA_KEY: _notes(word)})


def _determined(words: Sequence[Embedding]) -> bytes:
    entries: dict[str, Any] = {}
    for word in words:
        vectors = {key: _plain(rows) for key, rows in word.vectors.items()}
        entries[word.name] = {
            "initializer_strs": word.initializer,
            "learned_embeddings": vectors if len(vectors) > 1 else vectors["clip_l"],
        }
    return _archived(entries)


_ENCODERS = Kind(".safetensors", _by_encoder)
_ENTRIES = Kind(".pt", _determined, holds_several=True)

# By the names of `embeddings.LAYOUTS`. A new one is a line here, and what it writes above.
FORMATS = {
    "diffusers": Format(Kind(".safetensors", _by_token), _ENCODERS),
    "a1111": Format(Kind(".pt", _automatic), _ENCODERS),
    "kohya": Format(Kind(".safetensors", _nameless), _ENCODERS),
    "determined": Format(_ENTRIES, _ENTRIES),
}


def _metadata(word: Embedding) -> dict[str, str]:
    return {METADATA_KEY: _notes(word)}


def _notes(word: Embedding) -> str:
    """Return what is known of the word; a name that it had in an earlier file is not."""
    own = {
        "name": word.name,
        "initializer": word.initializer,
        "num_vectors": len(next(iter(word.vectors.values()))),
    }
    return json.dumps({**word.about, **own}, sort_keys=True)


def _plain(rows: torch.Tensor) -> torch.Tensor:
    # A copy: of a view, torch would save all that it is a view of.
    return rows.detach().to("cpu", torch.float32, copy=True).contiguous()


def _archived(value: Tensors | dict[str, Any]) -> bytes:
    """Return what torch.save makes of it, without what only newer versions put there.

    The web UI refuses an archive with an entry that it does not know. Saved to no file, the
    archive does not bear a file's name either: its bytes are those of what it holds.
    """
    saved, plain = io.BytesIO(), io.BytesIO()
    torch.save(value, saved)
    with zipfile.ZipFile(saved) as given, zipfile.ZipFile(plain, "w") as archive:
        for entry in given.namelist():
            _, _, name = entry.partition("/")
            if name in _OF_ARCHIVES or name.startswith("data/"):
                archive.writestr(zipfile.ZipInfo(entry), given.read(entry))
    return plain.getvalue()
