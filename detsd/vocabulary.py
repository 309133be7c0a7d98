"""What a grid's prompts may name: concepts, told apart where checkpoints are compared."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detsd.concepts import Concept, ConceptError, read_concepts
from detsd.config import GridConfig
from detsd.fetch import fetch_checkpoint
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


def read_vocabularies(config: GridConfig) -> dict[str | None, Vocabulary]:
    """Return what prompts may name, by the checkpoint of the sweep; None is of no checkpoint."""
    file = config.pipeline.learned_embeddings_filename
    shared: list[Known] = []
    for source in (*map(str, config.local_checkpoint_paths), *config.uuids):
        for concept in _read(source, file):
            if any(concept.name == one.name for one in shared):
                first = next(one.source for one in shared if one.name == concept.name)
                raise ConceptError(
                    f"{concept.name} is in {first} and in {source}; to compare them, name both in "
                    "sweep.checkpoint"
                )
            shared.append(Known(concept, concept.name, source, _digest(concept)))
    found: dict[str | None, Vocabulary] = {None: Vocabulary(shared)}
    for number, source in enumerate(config.sweep.checkpoint if config.sweep else ()):
        own = [
            Known(_numbered(concept, number), concept.name, source, digest)
            for concept in _read(source, file)
            for digest in [_digest(concept)]
        ]
        found[source] = Vocabulary([*shared, *own])
    return found


def _read(source: str, file: str) -> list[Concept]:
    folder = Path(source) if Path(source).exists() else fetch_checkpoint(source)
    return read_concepts(folder / file if (folder / file).is_file() else folder)


def _numbered(concept: Concept, number: int) -> Concept:
    bare = concept.name.removesuffix(">")
    return dataclasses.replace(concept, name=f"{bare}.{number}{concept.name[len(bare) :]}")


def _digest(concept: Concept) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for key in sorted(concept.vectors):
        digest.update(concept.vectors[key].numpy().tobytes())
    return digest.hexdigest()
