"""What a method, its prior and the words that it learns need of each other."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from detsd.words import named

OF_VECTORS = ("norm_reg_weight", "hidden_reg_weight", "embedding_norm")
PROMPTED = ("learnable_properties",)


def of_method(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the method needs and does not find, and what it has no use for."""
    if not isinstance(raw.get("method") or {}, Mapping):
        return  # which is said already
    method, concepts, training = (
        mapping(raw.get(key)) for key in ("method", "concepts", "training")
    )
    inverts = _inverts(raw)
    if inverts or method.get("vectors_learning_rate") is not None:
        yield from _of_words(concepts, training, inverts)
        return
    if concepts.get("init_from"):
        yield "concepts.init_from", "is for learnt vectors (method.vectors_learning_rate)"
    given = {"concepts.num_vectors": concepts.get("num_vectors")}
    given |= {f"training.{key}": training.get(key) for key in OF_VECTORS}
    for key, value in given.items():
        if value not in (None, "free"):
            yield key, "is for learnt vectors (method.vectors_learning_rate)"


def _of_words(
    concepts: Mapping[str, Any], training: Mapping[str, Any], inverts: bool
) -> Iterator[tuple[str, str]]:
    """Yield what new words need: a phrase or a file to start from above all."""
    words, sources, phrases = (
        _entries(concepts.get(key)) for key in ("concept_strs", "init_from", "initializer_strs")
    )
    from_phrases = not sources or not all(sources)
    wanted = ("concept_strs", *(("initializer_strs",) if from_phrases else ()))
    for key in (*wanted, *(PROMPTED if inverts else ())):
        if concepts and not concepts.get(key):
            yield f"concepts.{key}", "missing; it has no default"
    for word, (phrase, source) in zip(words, zip_longest(phrases, sources), strict=False):
        if phrases and not phrase and not source:
            yield (
                "concepts.initializer_strs",
                f"{word} has neither a phrase nor a file to start from",
            )
    if training.get("hidden_reg_weight") and not (phrases and all(phrases)):
        yield "training.hidden_reg_weight", "is a distance from concepts.initializer_strs"


def _entries(value: Any) -> list[Any]:
    """Return what is listed, or the one thing; junk, which is said elsewhere, is one thing too."""
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


def of_prior(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what makes no class of the class."""
    prior, concepts = mapping(raw.get("prior")), mapping(raw.get("concepts"))
    if prior and _inverts(raw):
        yield "prior", "textual inversion leaves the model as it is, and nothing is forgotten"
    words = texts(concepts.get("concept_strs"))
    for word in named("\n".join(texts(prior.get("class_prompt"))), words):
        yield "prior.class_prompt", f"names {word}, which is not to be all that its class can be"
    folder = prior.get("class_dir")
    if folder is not None and str(folder) in texts(concepts.get("img_dirs")):
        yield "prior.class_dir", "is one of concepts.img_dirs: other pictures are wanted there"


def of_recording(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what keeps a UNet from being recorded."""
    training = mapping(raw.get("training"))
    if training.get("compile") != "graph":
        return
    if not _inverts(raw):
        yield "training.compile", "graph is for textual_inversion, which leaves the UNet as it is"
    if training.get("gradient_checkpointing"):
        yield "training.compile", "graph computes nothing again, as gradient_checkpointing does"


def _inverts(raw: Mapping[str, Any]) -> bool:
    return mapping(raw.get("method")).get("kind", "textual_inversion") == "textual_inversion"


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the section, or none where something else was written."""
    return value if isinstance(value, Mapping) else {}


def texts(value: Any) -> list[str]:
    """Return the phrases of a list, or the one."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [text for text in values if isinstance(text, str) and text.strip()]
