"""What a run's samples are compared with, and what comes of it."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image

from detsd import images
from detsd.config import ConceptsConfig, FinetuneConfig, hub_token
from detsd.data import Example
from detsd.samples import Drawn
from detsd.score import Album, References, Scorer, Seen, likeness, load_scorer, together
from detsd.trial import Trial
from detsd.words import named, reworded

log = logging.getLogger(__name__)

T = TypeVar("T")
NOTHING = Seen(torch.empty(0), torch.empty(0))
Draw = Callable[[Sequence[str]], Drawn]


class Critic(Protocol):
    """What the loop knows of it."""

    looks: bool
    """Whether it needs samples."""
    basis: str
    """What its scores are measured by: those of another basis cannot be compared."""

    def scores(self, drawn: Drawn) -> dict[str, float]:
        """Return the metrics of the samples, the same in every process."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""


class NoCritic:
    """Where no scorer is named nothing is scored, and nothing is spent."""

    looks = False
    basis = ""

    def scores(self, drawn: Drawn) -> dict[str, float]:
        """Return none."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class SampleCritic:
    """Scores samples against the training pictures and the prompts' plain words."""

    looks = True

    def __init__(
        self,
        scorer: Scorer | None,  # of the process that looks; the others are told
        plain: Mapping[str, str],
        real: Mapping[str, Seen],
        draw: Draw,
        trial: Trial,
        basis: str,
        references: References | None,
        before: dict[str, torch.Tensor] | None,
    ):
        self.basis = basis
        self._scorer = scorer
        self._plain = plain
        self._real = real
        self._draw = draw
        self._trial = trial
        self._references = references
        # What prompts without a concept drew before anything was learnt, where that may change.
        self._before = before

    def scores(self, drawn: Drawn) -> dict[str, float]:
        """Return the metrics of the samples, the same in every process."""
        told = {prompt: samples for prompt, samples in drawn.items() if self._names(prompt)}
        if self._references is None:
            wanted = [reworded(prompt, self._plain) for prompt in told]
            plain = {prompt: drawn[prompt] for prompt in wanted if prompt in drawn}
            plain |= self._draw([prompt for prompt in wanted if prompt not in plain])
            words = sorted({name for prompt in told for name in self._names(prompt)})
            self._references = self._ask(lambda scorer: self._refer(scorer, plain, words))
        references = self._references
        scores = self._ask(lambda scorer: scorer.scores(self._albums(scorer, told), references))
        if self._before is None:
            return scores
        untold = {prompt: samples for prompt, samples in drawn.items() if prompt not in told}
        now = self._ask(lambda scorer: {text: scorer.see(untold[text]).clip for text in untold})
        self._before = {**now, **self._before}
        return scores | {"drift": drift(self._before, now)}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the references, which cost a round of samples."""
        if self._references is None:
            return {}
        return {"scores": tuple(self._references), "before": self._before}

    def _names(self, prompt: str) -> list[str]:
        return sorted(named(prompt, self._plain))

    def _ask(self, question: Callable[[Scorer], T]) -> T:
        def answer(_: int) -> T:
            assert self._scorer is not None, "only the chief is asked"
            return question(self._scorer)

        return self._trial.deal(answer, range(1))[0]

    def _refer(self, scorer: Scorer, plain: Drawn, words: Sequence[str]) -> References:
        albums = [Album(prompt, scorer.see(samples), NOTHING) for prompt, samples in plain.items()]
        fidelity = [likeness(self._real[word].clip) for word in words]
        return References(sum(fidelity) / len(fidelity), scorer.adherence(albums))

    def _albums(self, scorer: Scorer, told: Drawn) -> list[Album]:
        return [
            Album(
                reworded(prompt, self._plain),
                scorer.see(samples),
                together([self._real[name] for name in self._names(prompt)]),
            )
            for prompt, samples in told.items()
        ]


def open_critic(
    config: FinetuneConfig,
    examples: Sequence[Example],
    size: int,
    draw: Draw,
    trial: Trial,
    noted: Mapping[str, Any],
) -> Critic:
    """Return the critic that the config asks for, with what one on the same basis has found."""
    inference, concepts = config.inference, config.concepts
    if inference.scorer_name_or_path is None:
        return NoCritic()
    if not trial.is_chief:
        scorer, real = None, {}
    else:
        scorer = load_scorer(
            inference.scorer_name_or_path,
            inference.dino_name_or_path,
            trial.device,
            hub_token(os.environ),
        )
        real = {
            word.name: scorer.see(pictures_of(word.name, concepts, examples, size))
            for word in concepts.words
        }
    now = _basis(config, examples)
    state = noted.get("references", {})
    same = bool(state) and noted["basis"] == now
    before = (state.get("before") if same else None) or {}
    if noted and config.changes_model and not before:
        log.warning("drift is measured from this checkpoint on: nothing was drawn so before it")
    if state and noted["basis"] != now:
        log.warning("samples are scored in another way since the checkpoint: references start anew")
    return SampleCritic(
        scorer,
        config.plain_words,
        real,
        draw,
        trial,
        now,
        References(*state["scores"]) if same else None,
        before if config.changes_model else None,
    )


def drift(before: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]) -> float:
    """Return 1 − mean similarity of what the same prompts and seeds drew before and draw now."""
    pairs = [(before[prompt], seen) for prompt, seen in now.items()]
    rows = [(then * seen).sum(dim=1) for then, seen in pairs if then.shape == seen.shape]
    return 1 - float(torch.cat(rows).mean()) if rows else 0.0


def _basis(config: FinetuneConfig, examples: Sequence[Example]) -> str:
    pictures = [str(one.image) for one in examples]
    words = [tuple(word) for word in config.concepts.words]
    text = f"{config.inference!r}{config.model!r}{words}{pictures}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def pictures_of(
    word: str, concepts: ConceptsConfig, examples: Sequence[Example], size: int
) -> list[Image.Image]:
    """The word's pictures as small as the model draws, or sharpness alone would tell them apart."""
    folders = {folder.path for folder in concepts.folders if folder.word == word}
    found = [images.read_image(one.image) for one in examples if one.image.parent in folders]
    return [
        picture.resize((size, size), Image.Resampling.BICUBIC, box=images.middle(picture))
        for picture in found
    ]
