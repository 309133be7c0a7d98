"""The vectors of new words, as a part of the model that is learnt (textual inversion)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detsd import tokens
from detsd.batches import Batch
from detsd.checkpoints import Export
from detsd.concepts import Concept, write_concepts
from detsd.config import TrainingConfig
from detsd.model import StableDiffusion
from detsd.norms import Norms
from detsd.part import Distance, Part
from detsd.text import Conditioning

# Below this share of its first length a concept has hardly left its initializer.
HARDLY = 0.01


class Vectors(Part):
    """The rows of the concepts, and their norms beside the vocabulary's."""

    reads_prompts = True

    def __init__(
        self,
        config: TrainingConfig,
        concepts: Sequence[Concept],
        model: StableDiffusion,
        norms: Norms,
        learning_rate: float | None = None,
    ):
        self._config = config
        self._concepts = tuple(concepts)
        self._learning_rate = learning_rate
        self._rows = {concept.name: model.add_concept(concept) for concept in concepts}
        self._start = {name: rows.detach().clone() for name, rows in self._named_rows()}
        self._norms = norms
        # Words that start from files need not have an initializer, and have no such distance.
        self._initial_ids = [
            _initial_ids(encoder.tokenizer, concepts).to(model.device)
            for encoder in (model.encoders if config.hidden_reg_weight else ())
        ]
        regularised = {
            "norm_reg_loss": config.norm_reg_weight,
            "hidden_reg_loss": config.hidden_reg_weight,
        }
        self.terms = tuple(name for name, weight in regularised.items() if weight)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one group: every concept's rows."""
        return [{"params": list(self._named_rows()), "learning_rate": self._learning_rate}]

    def penalties(
        self, model: StableDiffusion, batch: Batch, conditioning: Conditioning
    ) -> dict[str, torch.Tensor]:
        """Return the regularisers that the config gives a weight."""
        terms = {}
        if weight := self._config.norm_reg_weight:
            terms["norm_reg_loss"] = weight * batch.share * self._norm_distance()
        if weight := self._config.hidden_reg_weight:
            terms["hidden_reg_loss"] = weight * self._hidden_distance(model, batch, conditioning)
        return terms

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Bring each vector back to the vocabulary's median norm, where the config says so."""
        if self._config.embedding_norm == "vocabulary":
            for key, rows in self._keyed_rows():
                rows.mul_(self._norms.medians[key] / rows.norm(dim=1, keepdim=True))

    def metrics(self) -> dict[str, float]:
        """Return the vectors' mean norm as a ratio of the vocabulary's."""
        ratios = [
            rows.detach().norm(dim=1).mean() / self._norms.means[key]
            for key, rows in self._keyed_rows()
        ]
        return {"embedding_norm_ratio": torch.stack(ratios).mean().item()}

    def moved(self) -> Distance:
        """Return the distance from the first vectors as a share of their length."""
        pairs = [(rows.detach(), self._start[name]) for name, rows in self._named_rows()]
        distance = sum((now - start).square().sum() for now, start in pairs)
        share = float((distance / sum(start.square().sum() for _, start in pairs)) ** 0.5)
        return Distance("the concepts", share, HARDLY)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the rows as they are and as they were before the first step."""
        now = {name: rows.detach().cpu().clone() for name, rows in self._named_rows()}
        return now | {f"{name}@start": rows.cpu() for name, rows in self._start.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Take the rows of each concept that `state` has in this shape."""
        missing = []
        for name, rows in self._named_rows():
            if name in state and state[name].shape == rows.shape:
                rows.copy_(state[name])
                self._start[name].copy_(state[f"{name}@start"])
            else:
                missing.append(name)
        return missing

    def start_from(self, export: Export) -> set[str]:
        """Take none: the concepts were added as the export has them, or were said to be new."""
        return {"concepts"} if export.concepts else set()

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the concept files."""
        learnt = [
            Concept(
                concept.name,
                {key: rows.detach().cpu() for key, rows in self._rows[concept.name].items()},
                concept.initializer,
                dict(about),
            )
            for concept in self._concepts
        ]
        write_concepts(folder, learnt)

    def _named_rows(self) -> list[tuple[str, nn.Parameter]]:
        return [
            (f"{name}/{key}", rows)
            for name, by_encoder in self._rows.items()
            for key, rows in by_encoder.items()
        ]

    def _keyed_rows(self) -> list[tuple[str, nn.Parameter]]:
        return [item for by_encoder in self._rows.values() for item in by_encoder.items()]

    def _norm_distance(self) -> torch.Tensor:
        distances = [
            (self._norms.means[key] - rows.norm(dim=1)).square().sum()
            for key, rows in self._keyed_rows()
        ]
        return torch.stack(distances).sum()

    def _hidden_distance(
        self, model: StableDiffusion, batch: Batch, conditioning: Conditioning
    ) -> torch.Tensor:
        ids = model.text.tokenize(batch.captions)
        with torch.no_grad():
            initial = [known[column] for known, column in zip(self._initial_ids, ids, strict=True)]
            wanted = model.text.encode_ids(initial).states
        distance = (conditioning.states.float() - wanted.float()).square().mean(dim=(1, 2))
        return (batch.weights * ~batch.of_class * distance).sum()


def _initial_ids(tokenizer: Any, concepts: Sequence[Concept]) -> torch.Tensor:
    """Return for each token the one that it started as: itself, but for a concept's."""
    ids = torch.arange(len(tokenizer))
    for concept in concepts:
        names = tokens.pieces(concept.name, concept.num_vectors)
        start = tokens.initial_ids(tokenizer, concept.initializer, concept.num_vectors)
        ids[tokenizer.convert_tokens_to_ids(names)] = torch.tensor(start)
    return ids
