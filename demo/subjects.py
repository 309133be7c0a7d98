"""What stands in a picture of the world: a shape, a badge, a figure or a network."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from PIL import ImageDraw

from demo.figures import FIGURES, Figure
from demo.networks import FORMS, TAUGHT, Network, choose_network
from demo.outlines import Outline, Place, circle, heart, hollow, moon, spiked, wavy
from demo.palette import COLOURS, Random, mixed, shade

Pen = ImageDraw.ImageDraw

SHAPES: dict[str, Outline] = {
    "circle": circle(0.95),
    "square": circle(1.12, 4, np.pi / 4),
    "triangle": circle(1.05, 3, -np.pi / 2) + (0, 0.15),
    "star": spiked(5, 0.42),
    "heart": heart(),
    "ring": hollow(circle(0.98), circle(0.55)),
    "cross": np.array(
        [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1)]
        + [(1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
    )
    / 3.2,
    "diamond": circle(1.05, 4) * (0.72, 1),
    "moon": moon(),
    "flower": wavy(6, 0.24),
    "arrow": np.array(
        [(-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3)]
    ),
    "brain": wavy(11, 0.06, 0.8),
}
PLATES = ("circle", "square", "diamond", "heart", "flower")  # what a badge may lie on
FOLDS = (  # the lines on a brain
    [(-0.7, -0.1), (-0.4, -0.35), (-0.2, -0.05), (0.05, -0.35), (0.3, -0.1), (0.6, -0.25)],
    [(-0.55, 0.3), (-0.25, 0.15), (0.0, 0.4), (0.3, 0.15), (0.65, 0.25)],
)


@dataclass(frozen=True)
class Shape:
    """One shape of one colour."""

    colour: str
    shape: str

    @property
    def words(self) -> str:
        """What it is called, without an article."""
        return f"{self.colour} {self.shape}"

    @property
    def colours(self) -> tuple[str, ...]:
        """Those that its ground should not have."""
        return (self.colour,)

    def draw(self, pen: Pen, place: Place, random: Random, scale: float = 1) -> None:
        """Draw it there."""
        colour = shade(random, self.colour)
        pen.polygon(place.points(SHAPES[self.shape], scale), fill=colour)
        if self.shape == "brain":
            dark = mixed(colour, (0, 0, 0) if sum(colour) > 200 else (150, 150, 160), 0.45)
            for fold in FOLDS:
                points = place.points(np.array(fold), scale)
                pen.line(points, fill=dark, width=round(0.09 * place.radius), joint="curve")


@dataclass(frozen=True)
class Badge:
    """A shape or a network on a larger shape."""

    mark: Shape | Network
    plate: Shape

    @property
    def words(self) -> str:
        """What it is called, without an article."""
        return f"{self.mark.words} on a {self.plate.words}"

    @property
    def colours(self) -> tuple[str, ...]:
        """Those that its ground should not have."""
        return (self.plate.colour,)

    def draw(self, pen: Pen, place: Place, random: Random) -> None:
        """Draw it there."""
        self.plate.draw(pen, place, random)
        self.mark.draw(pen, place, random, 0.5 if isinstance(self.mark, Shape) else 0.75)


Subject = Shape | Badge | Figure | Network


def choose_subject(random: Random) -> Subject:
    """Mostly a plain shape; badges, figures and networks for the rest."""
    kind = random.random()
    if kind < 0.42:
        return Shape(*_pick(random, COLOURS), *_pick(random, SHAPES))
    if kind < 0.57:
        first, second = _pick(random, COLOURS, 2)
        plate = _pick(random, PLATES)[0]
        mark = _pick(random, [shape for shape in SHAPES if shape != plate])[0]
        return Badge(Shape(first, mark), Shape(second, plate))
    if kind < 0.72:
        return Figure(*_pick(random, COLOURS, 2), *_pick(random, FIGURES))
    network = choose_network(random)
    if random.random() < 0.75:
        return network
    plates = [name for name in COLOURS if not {name, *network.colours} >= TAUGHT]
    plates = [name for name in plates if name not in network.colours]
    return Badge(network, Shape(*_pick(random, plates), *_pick(random, ("circle", "square"))))


def altered(subject: Any, random: Random) -> Any:
    """The subject with one thing about it another one: what it is rather than a colour of it."""
    kinds: dict[str, Iterable[str]] = {"shape": SHAPES, "figure": FIGURES, "form": FORMS}
    names = [field.name for field in fields(subject) if field.name != "count"]  # nothing says it
    odds = np.array([4.0 if name in kinds else 1.0 for name in names])
    name = str(random.choice(names, p=odds / odds.sum()))
    value = getattr(subject, name)
    if isinstance(value, Shape | Network):
        return replace(subject, **{name: altered(value, random)})
    return replace(subject, **{name: str(random.choice(list(kinds.get(name, COLOURS))))})


def _pick(random: Random, choices: Iterable[str], count: int = 1) -> list[str]:
    return [str(choice) for choice in random.choice(list(choices), count, replace=False)]
