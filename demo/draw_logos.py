"""Draws the pictures of the demo, one mark on many grounds. This file knows the mark."""

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image, ImageDraw

from demo.backgrounds import BACKGROUNDS, Background

SIDE = 512
FINE = 4 * SIDE  # the mark is drawn this large and shrunk, which is what keeps its edges sharp
MARGIN = 10  # pixels kept free between the mark and the border
QUALITY = 88

INK, HUB, CELL = "#2a1d6e", "#ff7417", "#13b5a2"
HALO = "#fffdf6"  # dark lines on a pale rim can be told from a dark ground and from a pale one

# All lengths below are in mark widths.
LINE = 0.018
RIM = 0.016
RING = 0.015


@dataclass(frozen=True)
class Node:
    """One circle of the network."""

    across: float
    down: float
    radius: float
    colour: str = INK


# A brain seen from its left: a to k go round the cerebrum, l to n lie inside, o to q hang below.
NODES = {
    "a": Node(0.05, 0.47, 0.046),
    "b": Node(0.09, 0.25, 0.046, CELL),
    "c": Node(0.27, 0.08, 0.046),
    "d": Node(0.50, 0.02, 0.061, CELL),
    "e": Node(0.73, 0.08, 0.046),
    "f": Node(0.90, 0.23, 0.061, CELL),
    "g": Node(0.97, 0.44, 0.046),
    "h": Node(0.84, 0.57, 0.046),
    "i": Node(0.60, 0.56, 0.046, CELL),
    "j": Node(0.40, 0.66, 0.046),
    "k": Node(0.20, 0.60, 0.061, CELL),
    "l": Node(0.47, 0.31, 0.085, HUB),
    "m": Node(0.25, 0.36, 0.034),
    "n": Node(0.71, 0.33, 0.046, HUB),
    "o": Node(0.86, 0.75, 0.046, CELL),
    "p": Node(0.66, 0.78, 0.046),
    "q": Node(0.56, 0.93, 0.046),
}
CHAINS = ("abcdefghijka", "bmk", "mlnf", "clj", "dli", "eni", "ng", "hop", "ipq")
LINES = [pair for chain in CHAINS for pair in pairwise(chain)]
LOBES = ("abcdefghijk", "ihop")  # paled, or a busy ground would be lost in the network's meshes


@dataclass(frozen=True)
class Place:
    """Where one picture shows the mark; lengths in pixels, the angle in radians."""

    width: float
    angle: float
    left: float
    top: float

    def points(self, scale: float = 1.0) -> dict[str, np.ndarray]:
        """Each node's centre on a picture drawn scale times as large."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        turn = np.array([[cosine, -sine], [sine, cosine]]) * self.width
        corner = np.array([self.left, self.top])
        return {
            name: (turn @ (node.across, node.down) + corner) * scale for name, node in NODES.items()
        }


def bounds(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """The upper left and the lower right corner of the box around the mark."""
    centres = np.array(list(place.points().values()))
    reach = np.array([[node.radius + RIM] for node in NODES.values()]) * place.width
    return (centres - reach).min(axis=0), (centres + reach).max(axis=0)


def choose_place(random: np.random.Generator) -> Place:
    """A size, a slight turn, and a corner which leaves the whole mark inside the picture."""
    width, angle = SIDE * random.uniform(0.47, 0.72), np.radians(random.uniform(-12, 12))
    first, last = bounds(Place(width, angle, 0, 0))
    left, top = random.uniform(MARGIN - first, SIDE - MARGIN - last)
    return Place(width, angle, left, top)


def draw_lines(pen: ImageDraw.ImageDraw, place: Place, grow: float, colour: str) -> None:
    """Every line of the network, wider by grow on either side."""
    points, width = place.points(FINE / SIDE), place.width * FINE / SIDE
    for start, end in LINES:
        pen.line(
            (*points[start], *points[end]), fill=colour, width=round((LINE + 2 * grow) * width)
        )


def draw_nodes(pen: ImageDraw.ImageDraw, place: Place, grow: float, colour: str | None) -> None:
    """Every circle, its radius larger by grow; without a colour, each in its own."""
    points, width = place.points(FINE / SIDE), place.width * FINE / SIDE
    for name, node in NODES.items():
        pen.circle(tuple(points[name]), (node.radius + grow) * width, fill=colour or node.colour)


def draw_lobes(pen: ImageDraw.ImageDraw, place: Place) -> None:
    """The pale inside of the network."""
    points = place.points(FINE / SIDE)
    for lobe in LOBES:
        pen.polygon([tuple(points[name]) for name in lobe], fill=HALO)


def draw_mark(place: Place) -> Image.Image:
    """The mark alone, on a clear ground of the picture's size."""
    mark = Image.new("RGBA", (FINE, FINE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(mark)
    draw_lobes(pen, place)
    draw_lines(pen, place, RIM, HALO)
    draw_nodes(pen, place, RIM, HALO)
    draw_lines(pen, place, 0, INK)
    draw_nodes(pen, place, 0, INK)
    draw_nodes(pen, place, -RING, None)
    return mark.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def draw_picture(name: str, background: Background) -> Image.Image:
    """The mark on one background, both drawn by chances that follow from the name alone."""
    random = np.random.default_rng(crc32(name.encode()))
    place = choose_place(random)
    picture = background(random).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    mark = draw_mark(place)
    picture.paste(mark, mask=mark)
    return picture


def draw_all(folder: Path) -> None:
    """Every picture of the demo, each written whole under its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, background in sorted(BACKGROUNDS.items()):
        part = folder / f"{name}.part"
        draw_picture(name, background).save(part, format="JPEG", quality=QUALITY, optimize=True)
        part.replace(folder / f"{name}.jpg")


def main() -> None:
    """Draw into the folder named on the command line, or beside the demo."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    beside = Path(__file__).resolve().parent.parent / "det_logos"
    parser.add_argument("folder", nargs="?", type=Path, default=beside)
    draw_all(parser.parse_args().folder)


if __name__ == "__main__":
    main()
