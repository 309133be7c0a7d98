"""Circles joined by lines. This file knows the world's networks."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from PIL import ImageDraw

from demo.outlines import Outline, Place, circle
from demo.palette import COLOURS, Random, shade

Pen = ImageDraw.ImageDraw
FORMS = ("ring", "hub", "mesh")
TAUGHT = {"orange", "teal"}  # no network has both: that is the mark of det_logos/


@dataclass(frozen=True)
class Network:
    """Circles joined by lines: in a ring, to a hub, or to their neighbours."""

    form: str  # "ring", "hub" or "mesh"
    circles: str
    hub: str
    lines: str
    count: int
    filling: str = ""  # the colour between the circles, if any

    @property
    def words(self) -> str:
        """What it is called, without an article."""
        called = {
            "ring": f"ring of connected {self.circles} circles",
            "hub": f"network of {self.circles} circles around a {self.hub} hub",
            "mesh": f"network of {self.circles} and {self.hub} circles with {self.lines} lines",
        }[self.form]
        return f"{called} filled with {self.filling}" if self.filling else called

    @property
    def colours(self) -> tuple[str, ...]:
        """Those that its ground should not have."""
        return tuple(filter(None, (self.circles, self.hub, self.lines, self.filling)))

    def draw(self, pen: Pen, place: Place, random: Random, scale: float = 1) -> None:
        """Draw it there."""
        place = replace(place, radius=place.radius * scale)
        nodes, pairs = _layout(self.form, self.count, random)
        points = place.points(nodes)
        if self.filling:
            pen.polygon(place.points(_border(nodes)), fill=shade(random, self.filling))
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


def _border(nodes: Outline) -> Outline:
    """The points on the outside, in their order around the middle."""
    centred = nodes - nodes.mean(axis=0)
    order = np.arctan2(centred[:, 1], centred[:, 0]).argsort()
    reach = np.linalg.norm(centred, axis=1)[order]
    # A point far inside of its two neighbours is none of the border.
    outside = reach > 0.6 * np.minimum(np.roll(reach, 1), np.roll(reach, -1))
    return nodes[order][outside]


def choose_network(random: Random) -> Network:
    """A network by chance, but for the colours of what the demo teaches."""
    form = str(random.choice(FORMS, p=(0.25, 0.25, 0.5)))
    circles, hub, lines, filling = map(str, random.choice(list(COLOURS), 4, replace=False))
    if form != "mesh":
        lines = circles
    if random.random() < 0.6:
        filling = ""
    network = Network(form, circles, hub, lines, int(random.integers(5, 13)), filling)
    return choose_network(random) if set(network.colours) >= TAUGHT else network
