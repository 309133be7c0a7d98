"""One image to be made, and what is wrong with one that cannot be."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from detsd.words import pieces, same_word

# As <cat-toy>; not as in "i <3 you" or <|endoftext|>.
BRACKETED = re.compile(r"<(?=[^<>|]*[^\W\d_])([^<>\s|/][^<>\s|]*)>")

MARKUP = {"a", "b", "body", "br", "div", "h1", "html", "i", "img", "p", "script", "span", "style"}


# Of the model's adapters these alone, by name and scale; None is however the model is by itself.
Adapters = tuple[tuple[str, float], ...] | None


class RequestError(ValueError):
    """An image that cannot be made as it is asked for."""


class Settings(NamedTuple):
    """What the images of a batch share."""

    scheduler: str
    scheduler_kwargs: dict[str, Any]  # over those that its name stands for
    steps: int
    size: tuple[int, int] | None = None  # width and height; the model's own when absent
    adapters: Adapters = None


class Request(NamedTuple):
    """One image to be made."""

    prompt: str
    seed: int
    guidance: float  # 1 and less is without guidance, and without the negative prompt
    settings: Settings
    negative_prompt: str = ""

    @property
    def guided(self) -> bool:
        """Whether the prompt is followed more strongly than the model does by itself."""
        return self.guidance > 1


def check_requests(
    requests: Iterable[Request], size_unit: int, concepts: Mapping[str, int]
) -> None:
    """Refuse a size that the model cannot draw, and a `<word>` that it was not taught.

    Plain words that are no concept cannot be told from English, and markup, as <script> or <b>, is
    text like any other.
    """
    sizes, texts = set(), set()
    for request in requests:
        sizes.add(request.settings.size and tuple(request.settings.size))
        texts |= {request.prompt, request.negative_prompt}
    for size in sizes - {None}:
        _check_size(size, size_unit)
    for text in sorted(texts):
        check_words(text, concepts)


def _check_size(size: Any, unit: int) -> None:
    if len(size) != 2 or any(edge < unit or edge % unit for edge in size):
        raise RequestError(
            f"size {' × '.join(map(str, size))}: width and height are wanted, each a multiple of "
            f"{unit} for this model"
        )


def check_words(text: str, concepts: Mapping[str, int]) -> None:
    """Refuse a `<word>` that is none of the concepts, which have so many vectors each."""
    for found in BRACKETED.finditer(text):
        word = found[0]
        known = [
            *concepts,
            *(one for name, count in concepts.items() for one in pieces(name, count)),
        ]
        is_markup = found[1].lower() in MARKUP or f"</{found[1]}>" in text
        if is_markup or any(same_word(word, name) for name in known):
            continue
        bare = next((name for name in concepts if same_word(found[1], name)), None)
        meant = f"; write {bare}, without brackets" if bare else ""
        raise RequestError(
            f"{text!r} names {word}, which this model was not taught{meant} "
            f"(its concepts: {', '.join(concepts) or 'none'})"
        )
