"""A concept in one tokenizer and text encoder: its tokens, its rows, its place in prompts."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from detsd.concepts import ConceptError

LONGEST_PROMPT = 75  # of CLIP's 77 tokens, less the start and the end


class ConceptEmbedding(nn.Module):
    """A frozen table, and after it the rows of each concept: all that can be learnt here."""

    def __init__(self, table: torch.Tensor, first_id: int):
        super().__init__()
        self.weight = nn.Parameter(table, requires_grad=False)
        self.first_id = first_id
        self.rows = nn.ParameterList()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the vectors of `ids`, in the table's precision."""
        is_concept = ids >= self.first_id
        known = F.embedding(ids.masked_fill(is_concept, 0), self.weight)
        rows = torch.cat([*self.rows])  # (all concepts' vectors, width)
        learnt = F.embedding((ids - self.first_id).clamp(min=0), rows).to(known.dtype)
        return torch.where(is_concept[..., None], learnt, known)

    def merged(self) -> nn.Embedding:
        """Return a plain embedding with the rows behind the table, as other tools expect."""
        rows = torch.cat([*self.rows]).detach().to(self.weight)
        return nn.Embedding.from_pretrained(torch.cat([self.weight[: self.first_id], rows]))


def initial_ids(tokenizer: Any, words: str, num_vectors: int | None) -> list[int]:
    """Return the tokens that a concept starts as: those of `words`, repeated or cut to length."""
    ids = tokenizer(words, add_special_tokens=False).input_ids
    if not ids:
        raise ConceptError(f"initializer {words!r} has no tokens")
    count = num_vectors or len(ids)
    if count > LONGEST_PROMPT - 10:
        raise ConceptError(
            f"initializer {words!r} has {count} tokens, which leaves no room for a prompt; "
            "shorten it, or set concepts.num_vectors"
        )
    return [ids[place % len(ids)] for place in range(count)]


def initial_vectors(
    tokenizer: Any, encoder: Any, words: str, num_vectors: int | None = None
) -> torch.Tensor:
    """Return a concept's first vectors, (num_vectors, width): those of its initializer's tokens."""
    table = encoder.get_input_embeddings().weight
    return table.detach()[initial_ids(tokenizer, words, num_vectors)].float().clone()


def add_concept(tokenizer: Any, encoder: Any, name: str, vectors: torch.Tensor) -> nn.Parameter:
    """Give the tokenizer the concept's pieces and the encoder its rows; return the rows."""
    table = encoder.get_input_embeddings()
    width = table.weight.shape[1]
    if vectors.shape[1] != width:
        raise ConceptError(
            f"{name} has vectors of width {vectors.shape[1]}, this model's text encoder takes "
            f"{width}: it was made for another base model"
        )
    _refuse_known_word(tokenizer, name)
    if not isinstance(table, ConceptEmbedding):
        table = ConceptEmbedding(table.weight.detach(), len(tokenizer))
        encoder.set_input_embeddings(table)
    tokenizer.add_tokens(pieces(name, len(vectors)))
    rows = nn.Parameter(vectors.detach().to(table.weight.device, torch.float32, copy=True))
    table.rows.append(rows)
    return rows


def _refuse_known_word(tokenizer: Any, name: str) -> None:
    vocabulary = tokenizer.get_vocab()
    for known in (name, name.lower(), f"{name.lower()}</w>", piece(name, 0)):
        if known in vocabulary:
            raise ConceptError(f"{name} is a word that the tokenizer knows already; choose another")


def piece(name: str, number: int) -> str:
    """Return the token of one of a concept's vectors; diffusers leaves such names alone."""
    return f"<{name}:{number}>"


def pieces(name: str, count: int) -> list[str]:
    """Return the tokens of all of a concept's vectors."""
    return [piece(name, number) for number in range(count)]


def expand(prompt: str, num_vectors: Mapping[str, int]) -> str:
    """Put each concept's pieces where its name stands; a second time changes nothing."""
    by_name = {name.casefold(): name for name in num_vectors}

    def replace(match: re.Match[str]) -> str:
        if match["name"] is None:
            return match[0]
        name = by_name[match["name"].casefold()]
        return " ".join(pieces(name, num_vectors[name]))

    return _pattern(tuple(num_vectors)).sub(replace, prompt) if num_vectors else prompt


def named(prompt: str, names: Mapping[str, int]) -> set[str]:
    """Return the concepts that a prompt names."""
    found = _pattern(tuple(names)).finditer(prompt) if names else ()
    by_name = {name.casefold(): name for name in names}
    return {by_name[match["name"].casefold()] for match in found if match["name"]}


@lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    # A piece is matched first, and left alone; then the longest name; and a name only where it
    # is a word of its own, so that det-logo is not found in det-logo-demo or in det-logos.
    longest_first = sorted(names, key=len, reverse=True)
    anything = "|".join(re.escape(name) for name in longest_first)
    bounded = "|".join(_bounded(name) for name in longest_first)
    return re.compile(rf"<(?:{anything}):\d+>|(?P<name>{bounded})", re.IGNORECASE)


def _bounded(name: str) -> str:
    before = r"(?<!\w)(?<!\w-)" if name[0].isalnum() else ""
    after = r"(?!-?\w)" if name[-1].isalnum() else ""
    return f"{before}{re.escape(name)}{after}"
