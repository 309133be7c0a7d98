"""The colours that captions name. This file knows what each of them looks like."""

import numpy as np

Random = np.random.Generator
Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (212, 38, 38),
    "orange": (244, 128, 28),
    "yellow": (250, 212, 48),
    "green": (48, 156, 66),
    "teal": (22, 168, 160),
    "blue": (40, 92, 212),
    "purple": (122, 48, 172),
    "pink": (246, 138, 182),
    "brown": (122, 76, 42),
    "black": (26, 26, 30),
    "white": (250, 249, 244),
    "grey": (142, 142, 148),
}


def shade(random: Random, name: str) -> Colour:
    """A colour that its name still fits; no two are quite the same."""
    red, green, blue = (int(np.clip(band + random.normal(0, 7), 0, 255)) for band in COLOURS[name])
    return red, green, blue


def mixed(first: Colour, second: Colour, amount: float) -> Colour:
    """The first colour with that amount of the second in it, 0 to 1."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))
    return red, green, blue


def paler(colour: Colour) -> Colour:
    """What goes beside the colour in a pattern; a pale colour gets a darker one."""
    towards = (255, 255, 252) if sum(colour) < 600 else (90, 90, 96)
    return mixed(colour, towards, 0.6 if sum(colour) < 600 else 0.3)
