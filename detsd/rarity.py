"""Whether a rare word is rare: learning another one would be a fight with what it means."""

import logging

from detsd.config import FinetuneConfig
from detsd.model import StableDiffusion

log = logging.getLogger(__name__)

# CLIP's vocabulary goes from frequent to rare: what comes before this share of it is in common use.
COMMON = 0.8


def warn_of_common_words(config: FinetuneConfig, model: StableDiffusion) -> None:
    """Warn of words that are to be learnt without vectors, and mean something already."""
    if config.method.learns_vectors:
        return
    tokenizer = model.encoders[0].tokenizer
    for word in config.concepts.words:
        if is_common(word.name, tokenizer):
            log.warning(
                "%s is a common word, and what it means will be unlearnt: choose one that means "
                "nothing, as fbernuy",
                word.name,
            )


def is_common(word: str, tokenizer: object) -> bool:
    """Return whether every part of the word is one frequent token."""
    ids = [tokenizer(part, add_special_tokens=False).input_ids for part in word.split()]  # type: ignore[operator]
    return all(len(one) == 1 and one[0] < COMMON * tokenizer.vocab_size for one in ids)  # type: ignore[attr-defined]
