"""A concept in one tokenizer and text encoder: its tokens and its rows."""

import re
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from detsd.concepts import ConceptError
from detsd.words import expand as expand
from detsd.words import piece, pieces

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

    def plain(self) -> nn.Embedding:
        """Return the table alone, as it was before there were rows."""
        return nn.Embedding.from_pretrained(self.weight.detach())

    def merged(self) -> nn.Embedding:
        """Return a plain embedding with the rows behind the table, as other tools expect."""
        rows = torch.cat([*self.rows]).detach().to(self.weight)
        return nn.Embedding.from_pretrained(torch.cat([self.weight[: self.first_id], rows]))


def is_row(name: str) -> bool:
    """Return whether a text encoder's parameter of that name is a concept's."""
    return re.search(r"\.token_embedding\.rows\.\d+$", name) is not None


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
    check_concept(tokenizer, encoder, name, vectors)
    table = encoder.get_input_embeddings()
    if not isinstance(table, ConceptEmbedding):
        table = ConceptEmbedding(table.weight.detach(), len(tokenizer))
        encoder.set_input_embeddings(table)
    tokenizer.add_tokens(pieces(name, len(vectors)))
    rows = nn.Parameter(vectors.detach().to(table.weight.device, torch.float32, copy=True))
    table.rows.append(rows)
    return rows


def check_concept(tokenizer: Any, encoder: Any, name: str, vectors: torch.Tensor) -> None:
    """Refuse a concept that this encoder cannot take."""
    width = encoder.get_input_embeddings().weight.shape[1]
    if vectors.shape[1] != width:
        raise ConceptError(
            f"{name} has vectors of width {vectors.shape[1]}, this model's text encoder takes "
            f"{width}: it was made for another base model"
        )
    vocabulary = tokenizer.get_vocab()
    added = {token.lower() for token in tokenizer.get_added_vocab()}
    if piece(name, 0).lower() in added:
        raise ConceptError(
            f"{name} was added before, in this or another case; prompts ignore it: choose another"
        )
    for known in (name, name.lower(), f"{name.lower()}</w>"):
        if known in vocabulary:
            raise ConceptError(
                f"{name} is a word that the tokenizer knows already; choose another (for a file's, "
                "python -m detsd convert FILE OUT --name ANOTHER)"
            )
