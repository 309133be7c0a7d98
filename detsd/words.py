"""Where a concept's name stands in a prompt, and the pieces that take its place."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache


def piece(name: str, number: int) -> str:
    """Return the token of one of a concept's vectors; diffusers leaves such names alone."""
    return f"<{name}:{number}>"


def pieces(name: str, count: int) -> list[str]:
    """Return the tokens of all of a concept's vectors."""
    return [piece(name, number) for number in range(count)]


def expand(prompt: str, num_vectors: Mapping[str, int]) -> str:
    """Put each concept's pieces where its name stands; a second time changes nothing."""

    def replace(match: re.Match[str]) -> str:
        if match["name"] is None:
            return match[0]
        name = _meant(match["name"], num_vectors)
        return " ".join(pieces(name, num_vectors[name]))

    return _pattern(tuple(num_vectors)).sub(replace, prompt) if num_vectors else prompt


def named(prompt: str, names: Iterable[str]) -> set[str]:
    """Return the concepts that a prompt names."""
    names = tuple(names)
    found = _pattern(names).finditer(prompt) if names else ()
    return {_meant(match["name"], names) for match in found if match["name"]}


def reworded(prompt: str, words: Mapping[str, str]) -> str:
    """Put each concept's plain words where its name stands; where they are none, close the gap."""

    def replace(match: re.Match[str]) -> str:
        return words[_meant(match["name"], words)] if match["name"] else match[0]

    if not words:
        return prompt
    plain = _pattern(tuple(words)).sub(replace, prompt)
    return plain if all(words.values()) else " ".join(plain.split())


def same_word(one: str, other: str) -> bool:
    """Return whether two names differ in case at most, which prompts ignore."""
    # By the rules of the pattern below, which knows more pairs than casefold does.
    return re.fullmatch(re.escape(one), other, re.IGNORECASE) is not None


def _meant(found: str, names: Iterable[str]) -> str:
    return next(name for name in names if same_word(name, found))


@lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    # A piece is matched first, and left alone; then the longest name; and a name only where it
    # is a word of its own, so that det-logo is not found in det-logo-demo or in det-logos.
    longest_first = sorted(names, key=len, reverse=True)
    anything = "|".join(re.escape(name) for name in longest_first)
    bounded = "|".join(_bounded(name) for name in longest_first)
    return re.compile(rf"<(?:{anything}):\d+>|(?P<name>{bounded})", re.IGNORECASE)


def _bounded(name: str) -> str:
    before = r"(?<!\w)(?<!\w-)" if name[0].isalnum() else ""
    after = r"(?!-?\w)" if name[-1].isalnum() else ""
    return f"{before}{re.escape(name)}{after}"
