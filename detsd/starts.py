"""What each word is before the first step: its initializer, a file's concept or a checkpoint's."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detsd.checkpoints import Export, find_checkpoint
from detsd.concepts import Concept, ConceptError, read_concepts
from detsd.config import ConfigError, Word
from detsd.config.concepts import MOST_VECTORS
from detsd.model import StableDiffusion

log = logging.getLogger(__name__)


def starting_concepts(
    words: Sequence[Word],
    model: StableDiffusion,
    own: Path | None,
    lent: Export | None,
    beside: Sequence[Concept],
) -> list[Concept]:
    """Return each word as another trial's checkpoint has it, or else the file that it is to start
    from, or the model that it was learnt with, or else as its initializer's tokens.

    A run that goes on has its words in its `own` checkpoint: the file may be gone by then.
    """
    lies = lent.concepts if lent else ()
    found = {concept.name: concept for concept in lies}
    known = {concept.name: concept for concept in beside} | found
    if words and lent and not known.keys() & {word.name for word in words}:
        there = ", ".join(known) or "no words"
        log.warning("the checkpoint has %s: each that is learnt here starts anew", there)
    concepts = []
    for word in words:
        if word.source:
            other = found.get(word.name)
            # The file may be gone, and is not missed where the checkpoint has it all.
            alike = other and word.num_vectors in (None, other.num_vectors)
            first = _renamed(word, other) if other and alike else _from_source(word, own)
        else:
            other = known.get(word.name)
            first = model.text.initial_concept(word.name, word.initializer, word.num_vectors)
        concepts.append(_warm(first, other) if other else first)
    return concepts


def _from_source(word: Word, own: Path | None) -> Concept:
    """Return the concept of the file, under the word's name."""
    assert word.source is not None
    path = own or find_checkpoint(word.source)
    there = read_concepts(path, word.name)
    same = [concept for concept in there if concept.name == word.name] or there
    if len(same) != 1:
        names = ", ".join(concept.name for concept in there)
        raise ConceptError(f"{path}: holds {names}; one called {word.name} is wanted of several")
    (concept,) = same
    if word.num_vectors not in (None, concept.num_vectors):
        raise ConfigError(
            [
                f"concepts.num_vectors: {word.num_vectors} are wanted, {path} has "
                f"{concept.num_vectors}; leave out one of the two"
            ]
        )
    if concept.num_vectors > MOST_VECTORS:
        raise ConceptError(
            f"{path}: has {concept.num_vectors} vectors, which leave no room for a prompt; at most "
            f"{MOST_VECTORS} are wanted"
        )
    if not own:
        log.info("%s starts from %s (%d vectors)", word.name, path, concept.num_vectors)
    return _renamed(word, concept)


def _renamed(word: Word, concept: Concept) -> Concept:
    return replace(concept, name=word.name, initializer=word.initializer or concept.initializer)


def _warm(concept: Concept, found: Concept) -> Concept:
    if found.num_vectors != concept.num_vectors:
        log.warning(
            "%s has %d vectors in the checkpoint and %d here, as which it starts",
            *(concept.name, found.num_vectors, concept.num_vectors),
        )
        return concept
    log.info("%s starts from the checkpoint", concept.name)
    return replace(concept, vectors=found.vectors)
