"""Walls, floors and other hard things. This file knows what each of them looks like."""

import numpy as np
from PIL import Image, ImageDraw

from demo.shapes import SHARD, corners, scattered
from demo.textures import (
    ACROSS,
    DOWN,
    SIDE,
    Random,
    cells,
    covered,
    lit,
    noise,
    ramp,
    relief,
    stripes,
)


def tiled(
    random: Random,
    width: int,
    height: int,
    colours: str,
    joint: str,
    gap: int = 8,
    shift: float = 0,
) -> Image.Image:
    """Rectangles in rows, every second row shifted, each of a colour drawn by chance."""
    image = Image.new("RGB", (SIDE, SIDE), joint)
    pen, choices = ImageDraw.Draw(image), colours.split()
    for row in range(SIDE // height + 1):
        for column in range(-1, SIDE // width + 1):
            left, top = (column + shift * (row % 2)) * width, row * height
            box = (left, top, left + width - gap - 1, top + height - gap - 1)
            pen.rectangle(box, fill=str(random.choice(choices)))
    return image


def painted_wall(random: Random) -> Image.Image:
    """Thick red paint on plaster."""
    colour = ramp(noise(random, 4), "#8f1616", "#b3211f", "#c9302a")
    return lit(colour, relief(noise(random, 14, octaves=4), 0.014))


def marble(random: Random, colours: str) -> Image.Image:
    """Veins of the first colour where bent stripes meet."""
    bent = ACROSS + 0.6 * DOWN + noise(random, 3, octaves=6)
    veins = np.abs(np.sin(3 * np.pi * bent)) ** 0.5
    return ramp(0.75 * veins + 0.25 * noise(random, 2), *colours.split())


def bricks(random: Random) -> Image.Image:
    """Red bricks in pale mortar."""
    reds = "#8e3b2a #9c4430 #a84b35 #7f3325 #b1553c"
    wall = tiled(random, 172, 76, reds, "#c9bfb2", 10, 0.5)
    return lit(wall, 0.8 + 0.4 * noise(random, 20, octaves=3))


def planks(random: Random, browns: str) -> Image.Image:
    """Wide boards with their grain running across."""
    boards = tiled(random, 2 * SIDE, 128, browns, "#2b1a0e", 5)
    bent = DOWN + 0.03 * noise(random, 2, 6, 2)
    grain = 0.5 + 0.5 * np.sin(400 * bent + 9 * noise(random, 2, 40, 3))
    return lit(boards, 0.78 + 0.14 * grain + 0.2 * noise(random, 2, 50, 3))


def desk(random: Random) -> Image.Image:
    """Boards with a sheet, two pencils and a cup at the edges."""
    image = planks(random, "#c98f55 #c4894f #cf965c")
    pen = ImageDraw.Draw(image)
    pen.polygon([(90, 150), (800, 60), (900, 850), (190, 940)], fill="#fbfaf4")
    for left, colour in ((40, "#e8b21f"), (100, "#c8343a")):
        pen.line((left, 330, left + 40, 900), fill=colour, width=26)
        pen.polygon([(left + 25, 900), (left + 55, 898), (left + 44, 955)], fill="#f0d3a6")
    for radius, colour in ((130, "#f5f5f2"), (108, "#d5d8da"), (100, "#4a2a16")):
        pen.circle((905, 130), radius, fill=colour)
    return image


def concrete(random: Random) -> Image.Image:
    """Grey, blotched and pitted."""
    ground = ramp(noise(random, 3, octaves=6), "#7d7e7d", "#9a9b99", "#b0b0ac")
    return scattered(random, ground, SHARD, "#6a6b6a #747573 #bdbdb9", 260, (2, 6))


def checkers(random: Random) -> Image.Image:
    """Polished squares, black beside white."""
    odd = (np.floor(ACROSS * 6) + np.floor(DOWN * 6)) % 2
    return lit(ramp(odd, "#1b1b1e", "#f2f0ea"), 0.88 + 0.16 * noise(random, 3))


def hexagons(random: Random) -> Image.Image:
    """Glazed tiles like honeycomb."""
    image = Image.new("RGB", (SIDE, SIDE), "#f3efe2")
    pen, blues = ImageDraw.Draw(image), ["#1f9aa6", "#2aabb4", "#178792", "#45bcc0"]
    for row in range(13):
        for column in range(10):
            centre = ((column + row % 2 / 2) * 114, row * 99 - 40, 60)
            pen.regular_polygon(centre, 6, rotation=30, fill=str(random.choice(blues)))
    return lit(image, 0.92 + 0.14 * noise(random, 6))


def terrazzo(random: Random) -> Image.Image:
    """Chips of stone set in a pale floor."""
    ground = Image.new("RGB", (SIDE, SIDE), "#efe9df")
    chips = "#c98b6b #6f8f86 #d9b44a #4b5a6b #b8a89a #a4503f"
    return scattered(random, ground, SHARD, chips, 330, (8, 30))


def stained_glass(random: Random) -> Image.Image:
    """Bright panes held by dark lead."""
    nearest, gap = cells(random, 46)
    panes = "#c62839 #f2a71b #1e63b8 #2a9d4e #7b3fa0 #f4d35e #1aa6b7 #e2662b"
    glass = ramp(random.integers(0, 8, 46)[nearest] / 7, *panes.split())
    return covered(lit(glass, 0.8 + 0.4 * noise(random, 6)), (gap < 0.014) * 1.0, "#14110f")


def lava(random: Random) -> Image.Image:
    """Cracks that glow between plates of cooled rock."""
    _, gap = cells(random, 30, bend=0.12)
    heat = 1 - (gap * 24 + 0.3 * (noise(random, 12) - 0.5)).clip(0, 1)
    rock = ramp(heat, "#1d1717", "#2a1b18", "#5e1a0c", "#d9400f", "#ffb52e", "#fff0a0")
    return lit(rock, relief(noise(random, 20, octaves=3), 0.012))


def steel(random: Random) -> Image.Image:
    """Fine scratches along a sheet that shines in bands."""
    shine = 0.5 + 0.5 * np.sin(7 * (ACROSS + 0.3 * DOWN))
    sheet = ramp(shine, "#8d9399", "#b9bfc4", "#dfe3e6")
    return lit(sheet, 0.86 + 0.28 * noise(random, 3, 250, 2))


def carbon(random: Random) -> Image.Image:
    """Black threads woven over two and under two."""
    column, row = np.floor(ACROSS * 36), np.floor(DOWN * 36)
    over = ((column + row) % 4) < 2
    bulge = np.where(over, stripes(ACROSS, 36), stripes(DOWN, 36))
    return ramp(np.sin(np.pi * bulge) * (0.55 + 0.45 * over), "#0c0d0f", "#25282c", "#4d5259")


def circuit(random: Random) -> Image.Image:
    """Traces that run, bend and end in a soldered pad."""
    image = Image.new("RGB", (SIDE, SIDE), "#0d5a36")
    pen = ImageDraw.Draw(image)
    for _ in range(90):
        start, run, bend = random.integers(0, 32, 2), random.integers(2, 9), random.integers(1, 4)
        side = random.choice([-1, 1])
        steps = np.cumsum([start, (run, 0), (bend, bend * side), (0, 3 * side)], axis=0)
        path = corners(steps * 32 + 16)
        pen.line(path, fill="#2fa065", width=7, joint="curve")
        for end in (path[0], path[-1]):
            pen.circle(end, 13, fill="#d9c27a")
            pen.circle(end, 5, fill="#0b3d26")
    return image


def bamboo(random: Random) -> Image.Image:
    """Round canes side by side, with a knot now and then."""
    cane, bulge = (ACROSS * 10.99).astype(int), np.sin(np.pi * stripes(ACROSS, 10.99))
    knots = stripes(DOWN + random.random(11)[cane], 2.2) < 0.03
    canes = ramp(bulge * 0.9 + 0.1 * noise(random, 40, 3), "#2c4a12", "#6f9a2d", "#a9c95a")
    return covered(canes, knots * 0.7, "#33500f")


def chalkboard(random: Random) -> Image.Image:
    """Dark green, wiped with a dusty sponge."""
    board = ramp(noise(random, 3), "#1e4234", "#28503f")
    swirl = noise(random, 2, 9, 5) * noise(random, 3)
    board = covered(board, 0.75 * (swirl - 0.15), "#d8e2da")
    ImageDraw.Draw(board).rectangle((0, 0, SIDE, SIDE), outline="#9a6a3c", width=26)
    return board
