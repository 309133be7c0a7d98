"""Grounds with colours of their own: "in a starry night sky". This file knows how each is drawn."""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from demo.palette import COLOURS, Colour, Random, mixed
from demo.patterns import grid, noise
from demo.textures import covered, ramp


def scattered(
    random: Random, image: Image.Image, colours: list[Colour], count: int, size: float
) -> Image.Image:
    """The image with slips of paper thrown on it."""
    pen, side = ImageDraw.Draw(image), image.width
    for _ in range(count):
        angle, place = random.uniform(0, np.pi), random.uniform(0, side, 2)
        along = np.array([np.cos(angle), np.sin(angle)]) * size * side
        wide = along[::-1] * (0.5, -0.5)
        corners = (place + along, place + wide, place - along, place - wide)
        pen.polygon([tuple(c) for c in corners], fill=colours[random.integers(len(colours))])
    return image


def starry(random: Random, side: int) -> Image.Image:
    """A dark sky with stars."""
    picture = ramp(noise(random, side, 2), (8, 10, 34), (30, 30, 84))
    pen = ImageDraw.Draw(picture)
    for across, down in random.uniform(0, side, (45, 2)):
        pen.circle((across, down), random.uniform(0.006, 0.014) * side, fill="#fff8dc")
    return picture


def sky(random: Random, side: int) -> Image.Image:
    """Blue, with white clouds."""
    cloud = noise(random, side, 2, 4)
    return ramp((cloud - 0.45) * 3, (76, 148, 228), (250, 252, 255))


def sunset(random: Random, side: int) -> Image.Image:
    """Purple above, orange below."""
    down, _ = grid(side)
    light = down + 0.15 * noise(random, side, 1, 6)
    return ramp(light, (82, 40, 120), (222, 84, 96), (252, 156, 50), (255, 214, 110))


def lawn(random: Random, side: int) -> Image.Image:
    """Blades of grass."""
    return ramp(noise(random, side, 30, 12), (34, 92, 26), (72, 146, 44), (132, 190, 74))


def planks(random: Random, side: int) -> Image.Image:
    """Brown boards with their grain."""
    down, _ = grid(side)
    board = np.floor(down * 5).astype(int)
    grain = 0.6 * noise(random, side, 2, 40) + 0.4 * random.random(5)[board]
    picture = ramp(grain, (96, 60, 32), (164, 112, 66))
    return covered(picture, ((down * 5) % 1 < 0.09) * 1.0, (44, 26, 14))


def sand(random: Random, side: int) -> Image.Image:
    """Rippled by the wind."""
    down, across = grid(side)
    ripples = np.sin(2 * np.pi * (9 * down + 2 * noise(random, side, 2) + across))
    return ramp(0.5 + 0.5 * ripples, (196, 150, 92), (236, 204, 146))


def snow(random: Random, side: int) -> Image.Image:
    """White with bluish hollows."""
    return ramp(noise(random, side, 4), (204, 218, 236), (244, 248, 253), (255, 255, 255))


def paper(random: Random, side: int) -> Image.Image:
    """Off-white and rough."""
    return ramp(noise(random, side, 40), (224, 214, 192), (246, 240, 226), (252, 248, 240))


def marble(random: Random, side: int, stone: Colour, vein: Colour) -> Image.Image:
    """Veins where bent stripes meet."""
    down, across = grid(side)
    bent = across + 0.6 * down + 1.2 * noise(random, side, 2)
    return ramp(np.abs(np.sin(2 * np.pi * bent)) ** 0.5, vein, mixed(stone, vein, 0.2), stone)


def tartan(random: Random, side: int) -> Image.Image:
    """Red and green bands, crossing."""
    down, across = grid(side)
    start = random.random(2)
    bands = [
        ((axis * 3 + s) % 1 < 0.4) * 0.5 for axis, s in zip((down, across), start, strict=True)
    ]
    return ramp(bands[0] + bands[1], (190, 30, 36), (110, 50, 34), (22, 84, 44))


def confetti(random: Random, side: int) -> Image.Image:
    """Bright slips on white."""
    bright = [COLOURS[name] for name in ("red", "yellow", "green", "blue", "pink", "orange")]
    return scattered(random, Image.new("RGB", (side, side), "#fdfaf4"), bright, 60, 0.035)


def leaves(random: Random, side: int) -> Image.Image:
    """Fallen leaves, brown to yellow."""
    fallen = [(200, 68, 27), (224, 127, 31), (233, 178, 44), (138, 90, 34), (160, 48, 26)]
    return scattered(random, Image.new("RGB", (side, side), "#5a3a1e"), fallen, 120, 0.08)


def concrete(random: Random, side: int) -> Image.Image:
    """Grey and blotched."""
    return ramp(noise(random, side, 9), (112, 113, 112), (156, 157, 154), (178, 178, 174))


def rain(random: Random, side: int) -> Image.Image:
    """Slanting streaks before grey clouds."""
    down, _ = grid(side)
    picture = ramp(down + 0.3 * noise(random, side, 2), (86, 94, 108), (150, 160, 172))
    pen = ImageDraw.Draw(picture)
    for across, top in random.uniform(0, side, (50, 2)):
        pen.line((across, top, across - side / 40, top + side / 11), fill="#c8d2de")
    return picture


def circuit(random: Random, side: int) -> Image.Image:
    """Pale traces on a green board."""
    picture = Image.new("RGB", (side, side), (13, 84, 50))
    pen, step = ImageDraw.Draw(picture), side / 16
    for _ in range(28):
        x, y = random.integers(0, 16, 2) * step + step / 2
        run, bend = random.integers(1, 5) * step, random.choice([-1, 1]) * step * 2
        path = [(x, y), (x + run, y), (x + run + abs(bend), y + bend)]
        pen.line(path, fill="#36b074", width=max(1, side // 60))
        pen.circle((x, y), side / 70, fill="#e0c982")
    return picture


SCENES: dict[str, tuple[str, Callable[[Random, int], Image.Image]]] = {
    "in a starry night sky": ("blue", starry),
    "in a blue sky with clouds": ("blue", sky),
    "in an orange and purple sunset sky": ("orange", sunset),
    "on a green lawn": ("green", lawn),
    "on brown wooden planks": ("brown", planks),
    "on rippled desert sand": ("yellow", sand),
    "on freshly fallen white snow": ("white", snow),
    "on textured paper": ("white", paper),
    "on white marble with grey veins": (
        "white",
        partial(marble, stone=(248, 248, 248), vein=(140, 144, 150)),
    ),
    "on black marble with golden veins": (
        "black",
        partial(marble, stone=(28, 28, 32), vein=(222, 178, 88)),
    ),
    "on a red and green tartan": ("red", tartan),
    "among colorful confetti": ("white", confetti),
    "on fallen autumn leaves": ("orange", leaves),
    "on rough grey concrete": ("grey", concrete),
    "in the rain under grey clouds": ("grey", rain),
    "on a green circuit board": ("green", circuit),
}
