"""Grounds of one colour: "on a blue striped background". This file knows how each is drawn."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from demo import textures
from demo.palette import Colour, Random, mixed, paler
from demo.textures import Field, ramp


def grid(side: int) -> tuple[Field, Field]:
    """How far down and how far across each pixel lies, from 0 to 1."""
    down, across = np.mgrid[0:side, 0:side].astype(np.float32) / side
    return down, across


def noise(random: Random, side: int, across: int, down: int | None = None) -> Field:
    """Smooth spots, of which so many fit across and down, and finer ones on them."""
    return textures.noise(random, across, down, octaves=3, side=side)


def plain(random: Random, side: int, colour: Colour) -> Image.Image:
    """The colour, with a little light on it."""
    light = noise(random, side, 1)
    return ramp(light, mixed(colour, (0, 0, 0), 0.06), mixed(colour, (255, 255, 255), 0.06))


def striped(random: Random, side: int, colour: Colour) -> Image.Image:
    """Level, upright or slanting stripes."""
    down, across = grid(side)
    along = (down, across, (down + across) / 1.4, (down - across) / 1.4)[random.integers(4)]
    wave = (along * random.integers(4, 7) + random.random()) % 1
    return ramp((wave < 0.5) * 1.0, colour, paler(colour))


def dotted(random: Random, side: int, colour: Colour) -> Image.Image:
    """Rows of round spots."""
    down, across = grid(side)
    count, start = random.integers(4, 7), random.random(2)
    row = np.floor(down * count + start[0])
    y, x = (down * count + start[0]) % 1, (across * count + start[1] + row % 2 / 2) % 1
    return ramp((np.hypot(y - 0.5, x - 0.5) < 0.27) * 1.0, colour, paler(colour))


def checkered(random: Random, side: int, colour: Colour) -> Image.Image:
    """Squares like a chessboard's."""
    down, across = grid(side)
    count, start = random.integers(4, 7), random.random(2)
    odd = (np.floor(down * count + start[0]) + np.floor(across * count + start[1])) % 2
    return ramp(odd, colour, paler(colour))


def gradient(random: Random, side: int, colour: Colour) -> Image.Image:
    """From the colour to a pale one."""
    down, across = grid(side)
    along = (down, across, 1 - down, (down + across) / 2)[random.integers(4)]
    return ramp(along, colour, mixed(paler(colour), (255, 255, 255), 0.5))


def tiles(random: Random, side: int, colour: Colour) -> Image.Image:
    """Square tiles, each a little different, with pale joints."""
    count = int(random.integers(5, 8))
    shades = np.kron(random.random((count, count)), np.ones((side // count + 1,) * 2))
    picture = ramp(shades[:side, :side], mixed(colour, (0, 0, 0), 0.2), paler(colour))
    pen, wide = ImageDraw.Draw(picture), max(1, side // 50)
    for line in range(0, side, side // count + 1):
        pen.line((line, 0, line, side), fill="#eeeae0", width=wide)
        pen.line((0, line, side, line), fill="#eeeae0", width=wide)
    return picture


def bricks(random: Random, side: int, colour: Colour) -> Image.Image:
    """Bricks in pale mortar."""
    picture = Image.new("RGB", (side, side), "#d0c7ba")
    pen, high, wide, gap = ImageDraw.Draw(picture), side / 8, side / 3.5, max(1, side // 50)
    for row in range(8):
        for column in range(-1, 4):
            left = (column + row % 2 / 2) * wide
            brick = mixed(colour, (0, 0, 0), random.uniform(0, 0.25))
            pen.rectangle((left, row * high, left + wide - gap, (row + 1) * high - gap), fill=brick)
    return picture


def glow(random: Random, side: int, colour: Colour) -> Image.Image:
    """Bright in the middle, the colour around it."""
    down, across = grid(side)
    centre = random.uniform(0.35, 0.65, 2)
    far = np.hypot(down - centre[0], across - centre[1]) / 0.75
    return ramp(far, mixed(colour, (255, 255, 255), 0.85), colour)


def waves(random: Random, side: int, colour: Colour) -> Image.Image:
    """Rows of waves, paler at their crests."""
    down, across = grid(side)
    bent = down + 0.045 * np.sin(2 * np.pi * (across * random.integers(2, 5) + random.random()))
    return ramp((bent * random.integers(4, 7) + random.random()) % 1, colour, paler(colour))


PATTERNS: dict[str, Callable[[Random, int, Colour], Image.Image]] = {
    "on a {} background": plain,
    "on a {} striped background": striped,
    "on a {} dotted background": dotted,
    "on a {} checkered background": checkered,
    "on a {} gradient": gradient,
    "on {} tiles": tiles,
    "on a {} brick wall": bricks,
    "in a soft {} glow": glow,
    "over {} waves": waves,
}
