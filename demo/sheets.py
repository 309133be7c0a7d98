"""Paper, cloth and other sheets. This file knows what each of them looks like."""

import numpy as np
from PIL import Image

from demo.shapes import SHARD, scattered
from demo.textures import (
    ACROSS,
    DOWN,
    SIDE,
    Field,
    Random,
    cells,
    covered,
    lit,
    noise,
    ramp,
    relief,
    stripes,
)


def crumpled_paper(random: Random) -> Image.Image:
    """White facets between straight creases."""
    creases = cells(random, 22, bend=0.1)[1] + 0.6 * cells(random, 60, bend=0.06)[1]
    return lit(Image.new("RGB", (SIDE, SIDE), "#dedbd4"), relief(creases, 0.07))


def graph_paper(random: Random) -> Image.Image:
    """Thin blue squares, every fifth line stronger."""
    paper = ramp(noise(random, 3), "#f7f8f4", "#fdfdfb")
    for count, thin, colour in ((30, 0.09, "#c3daee"), (6, 0.03, "#5b93c9")):
        lines = (stripes(ACROSS, count) < thin) | (stripes(DOWN, count) < thin)
        paper = covered(paper, lines * 1.0, colour)
    return paper


def denim(random: Random) -> Image.Image:
    """Blue and pale threads in a slanted weave."""
    twill = np.sin(2 * np.pi * stripes(ACROSS - DOWN, 64)) * 0.5 + 0.5
    worn = 0.7 * twill + 0.3 * noise(random, 40, 6, 2)
    return lit(ramp(worn, "#1d3358", "#35568a", "#7f9cc4"), 0.85 + 0.3 * noise(random, 2))


def tartan(random: Random) -> Image.Image:
    """A red cloth crossed by the same green bands both ways."""
    threads = "#b3202a #12472f #14213d #f0d36a"
    bands = np.array([0, 0, 0, 0, 3, 0, 1, 1, 1, 2, 1, 1, 1, 0, 3, 0, 0, 0]) / 3
    lengthwise, crosswise = (
        ramp(bands[(stripes(axis, 2.5) * 18).astype(int)], *threads.split())
        for axis in (ACROSS, DOWN)
    )
    return lit(Image.blend(lengthwise, crosswise, 0.5), 0.9 + 0.2 * stripes(ACROSS + DOWN, 70))


def dots(
    random: Random, ground: str, colour: str, count: int, radius: Field | float
) -> Image.Image:
    """Discs in slanted rows; radius in spacings."""
    right, below = ACROSS + DOWN, DOWN - ACROSS
    distance = np.hypot(stripes(right, count) - 0.5, stripes(below, count) - 0.5)
    return covered(Image.new("RGB", (SIDE, SIDE), ground), (radius - distance) * 12 + 0.5, colour)


def halftone(random: Random) -> Image.Image:
    """Red dots on yellow that swell towards the foot of the page."""
    return dots(random, "#ffd93b", "#e5383b", 12, 0.08 + 0.5 * DOWN)


def warning_stripes(random: Random) -> Image.Image:
    """Yellow and black, both slanted alike."""
    return ramp((stripes(ACROSS + DOWN, 5) - 0.5) * 40 + 0.5, "#f7c81e", "#1c1b1a")


def glow(random: Random) -> Image.Image:
    """A backdrop lit in its middle, pink all around."""
    away = 1.35 * np.hypot(ACROSS - 0.5, DOWN - 0.5)
    return ramp(away, "#fff3f6", "#ff9dbd", "#d6336c", "#6a1145")


def cork(random: Random) -> Image.Image:
    """Brown crumbs pressed together."""
    ground = ramp(noise(random, 12), "#b07d48", "#c99a62")
    crumbs = "#a87440 #d3a670 #8f5d30 #c08c54 #dcb480 #7a4c26"
    return scattered(random, ground, SHARD, crumbs, 1300, (6, 22))


def map_contours(random: Random) -> Image.Image:
    """Heights of a hilly land, with a line at every step."""
    height = noise(random, 3, octaves=3)
    land = ramp(height, "#cfe6c0", "#e6ecc2", "#f3e6bf", "#e6c99b")
    steep = np.hypot(*np.gradient(height)) + 1e-5
    nearness = (0.5 - np.abs(stripes(height, 16) - 0.5)) / (16 * steep)
    return covered(land, 2.6 - nearness, "#9a6a3a")
