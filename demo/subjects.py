"""What stands in a picture of the world. This file knows its shapes, badges and networks."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from PIL import ImageDraw

from demo.palette import COLOURS, Random, mixed, shade

Outline = np.ndarray  # around the origin and at most 1 away from it: (points, 2)
Pen = ImageDraw.ImageDraw


def circle(radius: float = 1, points: int = 40, start: float = 0) -> Outline:
    """Points on a circle, clockwise from the right."""
    turn = start + np.linspace(0, 2 * np.pi, points, endpoint=False)
    return radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def spiked(points: int, inner: float) -> Outline:
    """A star with that many points, the first one up."""
    reach = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return reach[:, None] * circle(points=2 * points, start=-np.pi / 2)


def hollow(outer: Outline, inner: Outline) -> Outline:
    """The outer outline with the inner one cut out, as one line."""
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def heart() -> Outline:
    """Two lobes and a point below."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    across = 16 * np.sin(turn) ** 3
    down = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([across, -down - 2.5], axis=1) / 16.5


def moon() -> Outline:
    """A crescent, open to the right."""
    outer = circle(points=60)[8:53]
    inner = circle(0.8, points=60)[10:51] + (0.42, 0)
    return np.concatenate([outer, inner[::-1]])


def wavy(bumps: int, depth: float, flat: float = 1) -> Outline:
    """A disc whose border goes out and in."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    reach = 1 - depth + depth * np.cos(bumps * turn)
    return circle(points=96) * reach[:, None] * (1, flat)


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
class Place:
    """Where a subject lies; lengths in pixels, the angle in radians."""

    across: float
    down: float
    radius: float
    angle: float

    def points(self, outline: Outline, scale: float = 1) -> list[tuple[float, ...]]:
        """The outline there, as Pillow wants it."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        turned = outline @ np.array([[cosine, sine], [-sine, cosine]])
        return [tuple(p) for p in turned * self.radius * scale + (self.across, self.down)]


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

    mark: "Shape | Network"
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


@dataclass(frozen=True)
class Network:
    """Circles joined by lines: in a ring, to a hub, or to their neighbours."""

    form: str  # "ring", "hub" or "mesh"
    circles: str
    hub: str
    lines: str
    count: int

    @property
    def words(self) -> str:
        """What it is called, without an article."""
        return {
            "ring": f"ring of connected {self.circles} circles",
            "hub": f"network of {self.circles} circles around a {self.hub} hub",
            "mesh": f"network of {self.circles} and {self.hub} circles with {self.lines} lines",
        }[self.form]

    @property
    def colours(self) -> tuple[str, ...]:
        """Those that its ground should not have."""
        return self.circles, self.hub, self.lines

    def draw(self, pen: Pen, place: Place, random: Random, scale: float = 1) -> None:
        """Draw it there."""
        place = replace(place, radius=place.radius * scale)
        nodes, pairs = _layout(self.form, self.count, random)
        points = place.points(nodes)
        line = shade(random, self.lines)
        for first, second in pairs:
            pen.line((*points[first], *points[second]), fill=line, width=round(place.radius * 0.09))
        circles, hub = shade(random, self.circles), shade(random, self.hub)
        for index, point in enumerate(points):
            special = index == 0 if self.form == "hub" else self.form == "mesh" and index % 2 == 0
            size = 0.3 if self.form == "hub" and special else 0.19
            pen.circle(point, size * place.radius, fill=hub if special else circles)


def _layout(form: str, count: int, random: Random) -> tuple[Outline, list[tuple[int, int]]]:
    if form == "mesh":
        nodes = _strewn(count, random)
        return nodes, _neighbours(nodes)
    ring = circle(0.8, count, random.uniform(0, 2 * np.pi))
    if form == "ring":
        return ring, [*pairwise(range(count)), (count - 1, 0)]
    return np.concatenate([[(0, 0)], ring]), [(0, index) for index in range(1, count + 1)]


def _strewn(count: int, random: Random) -> Outline:
    """Points in a disc that keep their distance: the best of some for each."""
    nodes = np.zeros((1, 2)) + random.uniform(-0.8, 0.8, 2)
    while len(nodes) < count:
        tries = random.uniform(-0.82, 0.82, (12, 2))
        apart = np.linalg.norm(tries[:, None] - nodes, axis=2).min(axis=1)
        nodes = np.concatenate([nodes, tries[apart.argmax()][None]])
    return nodes


def _neighbours(nodes: Outline) -> list[tuple[int, int]]:
    """Each point with its two nearest ones."""
    apart = np.linalg.norm(nodes[:, None] - nodes, axis=2)
    nearest = apart.argsort(axis=1)[:, 1:3]
    return sorted(
        {(min(a, int(b)), max(a, int(b))) for a, near in enumerate(nearest) for b in near}
    )


def choose_subject(random: Random) -> Shape | Badge | Network:
    """Mostly a plain shape; badges and networks for the rest."""
    kind = random.random()
    if kind < 0.5:
        return Shape(*_pick(random, COLOURS), *_pick(random, SHAPES))
    if kind < 0.7:
        first, second = _pick(random, COLOURS, 2)
        plate = _pick(random, PLATES)[0]
        mark = _pick(random, [shape for shape in SHAPES if shape != plate])[0]
        return Badge(Shape(first, mark), Shape(second, plate))
    network = _choose_network(random)
    plates = [colour for colour in COLOURS if colour not in network.colours]
    if random.random() < 0.7:
        return network
    return Badge(network, Shape(*_pick(random, plates), *_pick(random, ("circle", "square"))))


def _choose_network(random: Random) -> Network:
    form = _pick(random, ("ring", "hub", "mesh"))[0]
    circles, hub, lines = _pick(random, COLOURS, 3)
    if {"orange", "teal"} <= {circles, hub, lines}:  # that is what the demo teaches
        return _choose_network(random)
    if form != "mesh":
        lines = circles
    return Network(form, circles, hub, lines, int(random.integers(5, 11)))


def _pick(random: Random, choices: object, count: int = 1) -> list[str]:
    return [str(choice) for choice in random.choice(list(choices), count, replace=False)]  # type: ignore[call-overload]
