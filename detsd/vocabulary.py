"""What prompts of a grid may name: concepts, told apart where checkpoints are compared."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from detsd import fingerprint
from detsd.concepts import Concept
from detsd.words import named, reworded


class Known(NamedTuple):
    """A concept as the model gets it, under a name that no other one has."""

    concept: Concept
    name: str  # what prompts call it
    source: str  # the checkpoint, as the config names it
    digest: str  # of its vectors


class Vocabulary:
    """The concepts of one checkpoint, and of those that all images share."""

    def __init__(self, known: Sequence[Known]):
        self.known = {one.name: one for one in known}

    def names(self, text: str) -> list[str]:
        """Return the concepts that a prompt names."""
        return sorted(named(text, self.known))

    @property
    def num_vectors(self) -> dict[str, int]:
        """How many vectors each concept has."""
        return {name: one.concept.num_vectors for name, one in self.known.items()}

    def spoken(self, text: str) -> str:
        """Return the prompt as the model knows it."""
        return reworded(text, {name: one.concept.name for name, one in self.known.items()})

    def plain(self, text: str) -> str:
        """Return the prompt in the words that its concepts started from."""
        words = {name: one.concept.initializer or name for name, one in self.known.items()}
        return reworded(text, words)


def known(concepts: Iterable[Concept], source: str, number: int | None = None) -> Iterator[Known]:
    """Yield the concepts of a checkpoint; its number tells them from those of others."""
    for concept in concepts:
        own = concept if number is None else _numbered(concept, number)
        yield Known(own, concept.name, source, fingerprint.of_concept(concept))


def _numbered(concept: Concept, number: int) -> Concept:
    bare = concept.name.removesuffix(">")
    return dataclasses.replace(concept, name=f"{bare}.{number}{concept.name[len(bare) :]}")
