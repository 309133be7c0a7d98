"""Small flat things dropped on a ground. This file knows their outlines."""

import numpy as np
from PIL import Image, ImageDraw

from demo.textures import SIDE, Random, noise, ramp

Outline = np.ndarray  # around the origin, about two units long: (points, 2)


def mirrored(half: list[tuple[float, float]]) -> Outline:
    """The outline whose right half, from top to bottom, is given."""
    return np.array(half + [(-x, y) for x, y in reversed(half)])


TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
DISC = np.stack([np.cos(TURN), np.sin(TURN)], axis=1)
SHARD = np.array([(-1, -0.3), (-0.1, -0.8), (0.9, -0.4), (0.6, 0.5), (-0.5, 0.7)])
SLIP = np.array([(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)])
NEEDLE = np.array([(-1, -0.04), (1, 0), (-1, 0.04)])
PINE = mirrored([(0, -1), (0.2, -0.45), (0.1, -0.45), (0.32, 0.1), (0.15, 0.1), (0.42, 1)])
MAPLE = mirrored(
    [(0, -1), (0.14, -0.6), (0.36, -0.7), (0.3, -0.35), (0.85, -0.45), (0.75, -0.2)]
    + [(0.95, -0.05), (0.5, 0.25), (0.55, 0.4), (0.05, 0.35), (0.05, 0.9)]
)


def corners(outline: Outline) -> list[tuple[float, ...]]:
    """The points of an outline as Pillow wants them."""
    return [tuple(point) for point in outline]


def scattered(
    random: Random,
    image: Image.Image,
    shape: Outline,
    colours: str,
    count: int,
    sizes: tuple[float, float],
    turn: float = 180,
) -> Image.Image:
    """The image with copies of a shape dropped on it, turned by up to turn degrees."""
    pen, choices = ImageDraw.Draw(image), colours.split()
    for _ in range(count):
        angle, size = np.radians(random.uniform(-turn, turn)), random.uniform(*sizes)
        spin = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        points = shape @ spin * size + random.uniform(0, SIDE, 2)
        pen.polygon(corners(points), fill=str(random.choice(choices)))
    return image


def strewn(
    random: Random,
    shape: Outline,
    grounds: str,
    colours: str,
    count: int,
    sizes: tuple[int, int],
) -> Image.Image:
    """Copies of a shape strewn over a blotched ground."""
    ground = ramp(noise(random, 4), *grounds.split())
    return scattered(random, ground, shape, colours, count, sizes)
