"""Things of two colours, each put together from a few outlines. This file knows their parts."""

from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

from demo.outlines import Outline, Place, circle
from demo.palette import Random, shade

Pen = ImageDraw.ImageDraw


def box(left: float, top: float, right: float, bottom: float, inset: float = 0) -> Outline:
    """A rectangle, narrower below by inset on either side."""
    return np.array([(left, top), (right, top), (right - inset, bottom), (left + inset, bottom)])


def disc(across: float, down: float, wide: float, high: float | None = None) -> Outline:
    """An ellipse around a point."""
    return circle() * (wide, high or wide) + (across, down)


def points(*corners: tuple[float, float]) -> Outline:
    """A polygon."""
    return np.array(corners)


DOME = circle(points=60)[30:] * (0.95, 0.85)

# The parts in the order of drawing, each in the first (0) or the second (1) colour.
FIGURES: dict[str, list[tuple[Outline, int]]] = {
    "house": [
        (box(-0.65, -0.1, 0.65, 0.85), 0),
        (points((-0.9, -0.1), (0, -0.95), (0.9, -0.1)), 1),
        (box(-0.18, 0.35, 0.18, 0.85), 1),
    ],
    "tree": [(box(-0.14, 0.2, 0.14, 0.95), 1), (disc(0, -0.3, 0.7, 0.65), 0)],
    "mushroom": [(box(-0.25, 0, 0.25, 0.9), 1), (DOME + (0, 0.1), 0)],
    "fish": [
        (points((0.4, 0), (0.98, -0.55), (0.98, 0.55)), 1),
        (disc(-0.2, 0, 0.75, 0.48), 0),
        (disc(-0.6, -0.12, 0.1), 1),
    ],
    "face": [
        (disc(0, 0, 0.95), 0),
        (disc(-0.35, -0.25, 0.15), 1),
        (disc(0.35, -0.25, 0.15), 1),
        (-DOME * (0.55, 0.45) + (0, 0.25), 1),
    ],
    "cup": [
        (disc(0.55, 0.05, 0.38, 0.42), 1),
        (box(-0.75, -0.7, 0.6, 0.8, 0.15), 0),
        (box(-0.73, -0.35, 0.58, -0.1), 1),
    ],
    "boat": [
        (box(-0.95, 0.35, 0.95, 0.85, 0.35), 0),
        (points((0, -0.95), (0.7, 0.25), (0, 0.25)), 1),
        (points((-0.1, -0.6), (-0.1, 0.25), (-0.6, 0.25)), 1),
    ],
    "rocket": [
        (points((-0.3, 0.2), (-0.75, 0.85), (0.75, 0.85), (0.3, 0.2)), 1),
        (disc(0, -0.1, 0.4, 0.88), 0),
        (disc(0, -0.25, 0.17), 1),
    ],
    "bottle": [
        (box(-0.16, -0.95, 0.16, -0.3), 0),
        (box(-0.42, -0.4, 0.42, 0.95), 0),
        (box(-0.42, 0, 0.42, 0.5), 1),
    ],
    "eye": [(disc(0, 0, 0.98, 0.6), 0), (disc(0, 0, 0.42), 1)],
}


@dataclass(frozen=True)
class Figure:
    """One of them, in two colours."""

    first: str
    second: str
    figure: str

    @property
    def words(self) -> str:
        """What it is called, without an article."""
        return f"{self.first} and {self.second} {self.figure}"

    @property
    def colours(self) -> tuple[str, ...]:
        """Those that its ground should not have."""
        return self.first, self.second

    def draw(self, pen: Pen, place: Place, random: Random, scale: float = 1) -> None:
        """Draw it there."""
        colours = shade(random, self.first), shade(random, self.second)
        for outline, which in FIGURES[self.figure]:
            pen.polygon(place.points(outline, scale), fill=colours[which])
