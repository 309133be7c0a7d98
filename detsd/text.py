"""Stable Diffusion's text encoders: the concepts added to them, and what they make of prompts."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from detsd import tokens
from detsd.concepts import Concept, ConceptError
from detsd.sending import send

log = logging.getLogger(__name__)

MOST_KEPT = 1000  # prompts: a quarter of a gigabyte for SD 1.x
# By the widths of their encoders' vectors: clip_l's, and then clip_g's if there is one.
FAMILIES = {
    (768,): "Stable Diffusion 1.x",
    (1024,): "Stable Diffusion 2.x",
    (768, 1280): "Stable Diffusion XL",
}


class Conditioning(NamedTuple):
    """What the UNet is told of the prompts."""

    states: torch.Tensor  # (prompts, 77, width)
    pooled: torch.Tensor | None  # (prompts, width), SDXL only

    def at(self, rows: torch.Tensor) -> "Conditioning":
        """Return some of the rows, in any order."""
        return Conditioning(self.states[rows], None if self.pooled is None else self.pooled[rows])

    def followed_by(self, other: "Conditioning") -> "Conditioning":
        """Return both, one after the other."""
        pooled = None
        if self.pooled is not None and other.pooled is not None:
            pooled = torch.cat([self.pooled, other.pooled])
        return Conditioning(torch.cat([self.states, other.states]), pooled)


class TextEncoder(NamedTuple):
    """A tokenizer with its encoder; `key` is what concept files call it."""

    key: str
    tokenizer: Any
    module: Any


class PromptEncoder:
    """One text encoder (SD 1.x, 2.x) or two (SDXL), and the concepts that they know."""

    def __init__(self, encoders: Sequence[TextEncoder], device: torch.device):
        self.encoders = tuple(encoders)
        self.device = device
        self.concepts: dict[str, int] = {}  # name → number of vectors
        self._untaught: list[Any] = []  # the tokenizers before there were concepts
        self._ids: dict[str, list[torch.Tensor]] = {}

    def add_concept(self, concept: Concept) -> dict[str, nn.Parameter]:
        """Make the concept's word usable in prompts; return its rows by encoder."""
        found = {key: rows.shape[1] for key, rows in concept.vectors.items()}
        wanted = {key: table.shape[1] for key, table in self.tables().items()}
        if found != wanted:
            raise ConceptError(
                f"{concept.name} has vectors of width {_spelt(found)}, this model takes "
                f"{_spelt(wanted)}: it was made for another base model"
            )
        for key, tokenizer, module in self.encoders:  # all of them, before the first is changed
            tokens.check_concept(tokenizer, module, concept.name, concept.vectors[key])
        if not self.concepts:
            self._untaught = [_at_rest(tokenizer) for _, tokenizer, _ in self.encoders]
        rows = {
            key: tokens.add_concept(tokenizer, module, concept.name, concept.vectors[key])
            for key, tokenizer, module in self.encoders
        }
        self.concepts[concept.name] = concept.num_vectors
        self._ids.clear()
        return rows

    def tables(self) -> dict[str, torch.Tensor]:
        """Return the vocabulary's vectors by encoder, without the concepts'."""
        return {
            key: module.get_input_embeddings().weight.detach() for key, _, module in self.encoders
        }

    def initial_concept(self, name: str, words: str, num_vectors: int | None) -> Concept:
        """Return the concept as it is before the first step: the vectors of its initializer."""
        vectors = {
            key: tokens.initial_vectors(tokenizer, module, words, num_vectors).cpu()
            for key, tokenizer, module in self.encoders
        }
        return Concept(name, vectors, words)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode the prompts, each distinct one once."""
        distinct = list(dict.fromkeys(prompts))
        rows = send([distinct.index(prompt) for prompt in prompts], self.device)
        return self.encode_ids(self.tokenize(distinct)).at(rows)

    def tokenize(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Return the ids of the prompts, concepts expanded: (prompts, 77) for each encoder."""
        for prompt in prompts:
            if prompt not in self._ids:
                self._ids[prompt] = self._tokenize(prompt)
        columns = zip(*(self._ids[prompt] for prompt in prompts), strict=True)
        return [send(torch.cat(column), self.device) for column in columns]

    def encode_ids(self, ids: Sequence[torch.Tensor]) -> Conditioning:
        """Return what the encoders make of `ids`, a tensor of them for each."""
        if len(self.encoders) == 1:
            return Conditioning(self.encoders[0].module(ids[0]).last_hidden_state, None)
        # SDXL was trained on the last layer but one of both, and on the second's pooled state.
        outputs = [
            encoder.module(column, output_hidden_states=True)
            for encoder, column in zip(self.encoders, ids, strict=True)
        ]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return Conditioning(states, outputs[-1].text_embeds)

    def plain(self, *, concepts: bool) -> list[TextEncoder]:
        """Return the encoders with plain embeddings over these weights, concepts in them or not."""
        known = [encoder.tokenizer for encoder in self.encoders]
        tokenizers = known if concepts or not self.concepts else self._untaught
        return [
            TextEncoder(key, copy.deepcopy(tokenizer), _with_plain_embedding(module, concepts))
            for (key, _, module), tokenizer in zip(self.encoders, tokenizers, strict=True)
        ]

    def _tokenize(self, prompt: str) -> list[torch.Tensor]:
        expanded = tokens.expand(prompt, self.concepts)
        tokenizer = self.encoders[0].tokenizer
        full = tokenizer(expanded, truncation=False, verbose=False).input_ids
        if len(full) > tokenizer.model_max_length:
            cut = tokenizer.decode(full[tokenizer.model_max_length - 1 : -1])
            log.warning("the prompt %r is too long; its end is not seen: %r", prompt, cut)
        return [
            encoder.tokenizer(
                expanded,
                padding="max_length",
                max_length=encoder.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            for encoder in self.encoders
        ]


class KeptPrompts:
    """What encoders that do not learn make of prompts: each is encoded once, and then kept."""

    def __init__(self, text: PromptEncoder):
        self._text = text
        self._kept: dict[str, Conditioning] = {}

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Return a row a prompt."""
        if len(self._kept) > MOST_KEPT:
            self._kept.clear()
        for prompt in prompts:
            if prompt not in self._kept:
                # Alone: what is made of it must not depend on what else a batch holds.
                self._kept[prompt] = self._text.encode([prompt])
        rows = [self._kept[prompt] for prompt in prompts]
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return Conditioning(
            torch.cat([row.states for row in rows]), torch.cat(pooled) if pooled else None
        )


def _spelt(widths: Mapping[str, int]) -> str:
    family = FAMILIES.get(tuple(widths[key] for key in sorted(widths, reverse=True)))
    said = f"{' + '.join(map(str, widths.values()))} ({' and '.join(widths)}"
    return f"{said}, as of {family})" if family else f"{said})"


def _at_rest(tokenizer: Any) -> Any:
    """Return a copy without the padding of the last prompt, which would be saved with it."""
    twin = copy.deepcopy(tokenizer)
    twin.backend_tokenizer.no_truncation()
    twin.backend_tokenizer.no_padding()
    return twin


def _with_plain_embedding(encoder: Any, concepts: bool) -> Any:
    table = encoder.get_input_embeddings()
    if not isinstance(table, tokens.ConceptEmbedding):
        return encoder
    tensors = [*encoder.parameters(), *encoder.buffers()]
    twin = copy.deepcopy(encoder, {id(tensor): tensor for tensor in tensors})  # same weights
    twin.set_input_embeddings(table.merged() if concepts else table.plain())
    twin.config.vocab_size = twin.get_input_embeddings().num_embeddings
    return twin
