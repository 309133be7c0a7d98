"""Drawn grounds to put a mark on, by caption. This file knows what each of them looks like."""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageColor, ImageDraw

SIDE = 1024  # twice the picture, so that shrinking it smooths every edge
DOWN, ACROSS = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]

Random = np.random.Generator
Field = np.ndarray  # one number per pixel, mostly from 0 to 1: (SIDE, SIDE)
Background = Callable[[Random], Image.Image]

# Outlines around the origin, about two units long.
TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
DISC = np.stack([np.cos(TURN), np.sin(TURN)], axis=1)
SHARD = np.array([(-1, -0.3), (-0.1, -0.8), (0.9, -0.4), (0.6, 0.5), (-0.5, 0.7)])
SLIP = np.array([(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)])
NEEDLE = np.array([(-1, -0.04), (1, 0), (-1, 0.04)])
PINE = [(0, -1), (0.2, -0.45), (0.1, -0.45), (0.32, 0.1), (0.15, 0.1), (0.42, 1)]
MAPLE = [(0, -1), (0.14, -0.6), (0.36, -0.7), (0.3, -0.35), (0.85, -0.45), (0.75, -0.2)]
MAPLE += [(0.95, -0.05), (0.5, 0.25), (0.55, 0.4), (0.05, 0.35), (0.05, 0.9)]
PINE, MAPLE = (np.array(half + [(-x, y) for x, y in reversed(half)]) for half in (PINE, MAPLE))
# A mountain from its top to its foot, one unit down and one to either side.
PEAK, SHADE = np.array([(0, 0), (1, 1), (-1, 1)]), np.array([(0, 0), (1, 1), (0.25, 1)])
SNOW = [(0, 0), (0.3, 0.3), (0.17, 0.25), (0.08, 0.36), (-0.03, 0.27), (-0.15, 0.38), (-0.3, 0.3)]
CAP = np.array(SNOW)
# A trunk and two arms, each from its foot to its tip, in pixels.
CACTUS = [[(0, 280), (0, 0)], [(0, 170), (-60, 170), (-60, 80)], [(0, 130), (60, 130), (60, 40)]]


# What the grounds are made with.


def noise(random: Random, across: int, down: int | None = None, octaves: int = 4) -> Field:
    """Smooth spots, the largest of which fit across times across and down times down."""
    total = np.zeros((SIDE, SIDE))
    for octave in range(octaves):
        shape = ((down or across) * 2**octave + 1, across * 2**octave + 1)
        grid = Image.fromarray(random.random(shape, dtype=np.float32))
        total += np.asarray(grid.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 2**octave
    return (total - total.min()) / np.ptp(total)


def ramp(field: Field, *colours: str) -> Image.Image:
    """Each number as a colour, that far on the way through the colours."""
    stops = np.array([ImageColor.getrgb(colour) for colour in colours])
    places = np.linspace(0, 1, len(stops))
    bands = [np.interp(field, places, stops[:, band]) for band in range(3)]
    return Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8))


def lit(image: Image.Image, light: Field) -> Image.Image:
    """The image with its brightness multiplied."""
    return Image.fromarray((np.asarray(image) * light[..., None]).clip(0, 255).astype(np.uint8))


def relief(height: Field, depth: float) -> Field:
    """The light on a surface of that height when it falls from the upper left."""
    return 1 + depth * SIDE * sum(np.gradient(height))


def covered(image: Image.Image, amount: Field, colour: str) -> Image.Image:
    """The image under a colour, laid on by amount: 0 nothing of it, 1 nothing else."""
    mask = Image.fromarray((amount.clip(0, 1) * 255).astype(np.uint8))
    return Image.composite(Image.new("RGB", image.size, colour), image, mask)


def scattered(
    random: Random,
    image: Image.Image,
    shape: np.ndarray,
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
        pen.polygon([tuple(point) for point in points], fill=str(random.choice(choices)))
    return image


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


def cells(random: Random, count: int, bend: float = 0) -> tuple[Field, Field]:
    """Which of count scattered points is nearest, and how much farther the second one is."""
    down, across = (axis + bend * noise(random, 5) for axis in (DOWN, ACROSS))
    points = random.random((count, 2))
    nearest, first, second = np.zeros((SIDE, SIDE), int), np.full((SIDE, SIDE), 9.0), 9.0
    for index, (y, x) in enumerate(points):
        distance = np.hypot(down - y, across - x)
        second = np.minimum(second, np.maximum(first, distance))
        nearest = np.where(distance < first, index, nearest)
        first = np.minimum(first, distance)
    return nearest, second - first


def stripes(field: Field, count: float) -> Field:
    """How far each place is on its way through the one of count stripes that it lies in."""
    return (field * count) % 1


def ridge(random: Random, top: float, rough: float, across: int, octaves: int = 5) -> Field:
    """How far each place lies below an uneven skyline."""
    return DOWN - top - rough * (noise(random, across, 1, octaves)[0] - 0.5)


def solid(below: Field) -> Field:
    """One under a skyline, nothing above it."""
    return (below > 0).astype(float)


# Walls, floors and other hard things.


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
        path = [tuple(point) for point in steps * 32 + 16]
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


# Paper, cloth and other soft things.


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


def chalkboard(random: Random) -> Image.Image:
    """Dark green, wiped with a dusty sponge."""
    board = ramp(noise(random, 3), "#1e4234", "#28503f")
    swirl = noise(random, 2, 9, 5) * noise(random, 3)
    board = covered(board, 0.75 * (swirl - 0.15), "#d8e2da")
    ImageDraw.Draw(board).rectangle((0, 0, SIDE, SIDE), outline="#9a6a3c", width=26)
    return board


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


def dots(random: Random, ground: str, colour: str, count: int, radius: Field) -> Image.Image:
    """Discs in slanted rows; radius in spacings."""
    right, below = ACROSS + DOWN, DOWN - ACROSS
    distance = np.hypot(stripes(right, count) - 0.5, stripes(below, count) - 0.5)
    return covered(Image.new("RGB", (SIDE, SIDE), ground), (radius - distance) * 12 + 0.5, colour)


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


# Out of doors.


def sky(random: Random) -> Image.Image:
    """White clouds in the blue."""
    blue = ramp(DOWN, "#2a78c8", "#8cc3ee")
    return covered(blue, 2.6 * (noise(random, 3, 4, 7) - 0.48), "#ffffff")


def stars(random: Random) -> Image.Image:
    """Stars of all sizes before a faint milky band."""
    night = ramp(0.8 * DOWN, "#060a1f", "#101a44", "#27306a")
    band = np.exp(-(((ACROSS + DOWN - 1.0 + 0.3 * noise(random, 3)) / 0.22) ** 2))
    night = covered(night, 0.45 * band * noise(random, 6, octaves=6), "#b9b4ee")
    night = scattered(random, night, DISC, "#c9d4ff #ffffff #fff0cf", 520, (1, 3))
    return scattered(random, night, DISC, "#ffffff #fff0cf", 60, (3, 6))


def waves(random: Random) -> Image.Image:
    """Rows of pointed waves with foam along their crests."""
    image, tones = ramp(DOWN, "#6fb4dc", "#2f7fb8"), ["#2f86c0", "#1c6cab", "#0f5595", "#164f8c"]
    for row in range(11):
        swell = np.abs(np.sin(np.pi * (4 * ACROSS + random.random())))
        below = ridge(random, 0.1 * row, 0.03, 4, 2) - 0.05 * swell
        image = covered(image, solid(below), "#eef8fc")
        image = covered(image, solid(below - 0.008), tones[row % 4])
    return image


def dunes(random: Random) -> Image.Image:
    """Wind ripples on sand."""
    height = np.sin(2 * np.pi * (13 * DOWN + 3 * ACROSS + 3.5 * noise(random, 2, octaves=3)))
    light = relief(0.012 * height + 0.1 * noise(random, 2, octaves=2), 0.22)
    return lit(Image.new("RGB", (SIDE, SIDE), "#d9ae6c"), light)


def lawn(random: Random) -> Image.Image:
    """Blades of grass."""
    ground, greens = ramp(noise(random, 5), "#2c6a1c", "#3c8426"), "#2f7420 #4a9a2e #5bab38 #3a8527"
    return scattered(random, ground, NEEDLE * (1, 2), greens, 2600, (20, 42))


def snow(random: Random) -> Image.Image:
    """Soft blue hollows and a few glints."""
    light = relief(noise(random, 4, octaves=4), 0.022)
    drift = lit(ramp(noise(random, 2), "#d5e3f2", "#eef3f9"), light)
    return scattered(random, drift, DISC, "#ffffff", 160, (1, 3))


def sunset(random: Random) -> Image.Image:
    """A low sun behind bars of cloud."""
    glow = ramp(DOWN, "#3c1d6e", "#8a2f83", "#dd5a5a", "#ff9a3d", "#ffd06b")
    glow = covered(glow, 60 * (0.13 - np.hypot(ACROSS - 0.5, DOWN - 0.82)), "#fff1b8")
    return covered(glow, 2.2 * (noise(random, 2, 12, 5) - 0.56), "#6a2670")


def skyline(random: Random) -> Image.Image:
    """Towers with lit windows under a dark sky."""
    image = ramp(DOWN, "#0a0d2b", "#1c1b52", "#5a2f78", "#a8486f")
    pen = ImageDraw.Draw(image)
    for left in range(0, SIDE, 74):
        top = int(random.integers(10, 26)) * 30
        pen.rectangle((left, top, left + 68, SIDE), fill="#0b0c1a")
        for x, y in np.ndindex(3, (SIDE - top) // 30):
            if random.random() < 0.5:
                corner = left + 9 + 18 * x, top + 10 + 30 * y
                pen.rectangle((*corner, corner[0] + 11, corner[1] + 15), fill="#ffd873")
    return image


def mountains(random: Random) -> Image.Image:
    """Peaks with one side in the shade, each under a jagged cap."""
    image = covered(ramp(DOWN, "#5b9bd8", "#d6e8f6"), solid(ridge(random, 0.45, 0.2, 4)), "#a9bfd6")
    pen = ImageDraw.Draw(image)
    for x, top, half in ((230, 170, 420), (830, 110, 470), (560, 330, 400), (60, 480, 360)):
        foot = np.array([half, SIDE - top])
        for shape, colour in ((PEAK, "#6d7f94"), (SHADE, "#4d5e74"), (CAP, "#ffffff")):
            pen.polygon([tuple(point) for point in shape * foot + (x, top)], fill=colour)
    return image


def pine_forest(random: Random) -> Image.Image:
    """Rows of pines, the farther the paler."""
    image = ramp(DOWN, "#d3dcdc", "#b9c6c5")
    tones = ("#adbcbc", "#8ba0a0", "#627c7a", "#38524e")
    for row, colour in enumerate(tones):
        pen, base = ImageDraw.Draw(image), 430 + 140 * row
        pen.rectangle((0, base + 60, SIDE, SIDE), fill=colour)
        for x in random.uniform(0, SIDE, 26 - 3 * row):
            points = PINE * (180 + 20 * row) * random.uniform(0.7, 1.2) + (x, base)
            pen.polygon([tuple(point) for point in points], fill=colour)
        image = covered(image, 0.5 * noise(random, 3, 6) * DOWN, "#dfe6e5")
    return image


def desert(random: Random) -> Image.Image:
    """Cactuses on sand hills before a hot sky."""
    image = ramp(DOWN, "#4aa3dd", "#bfe0ee", "#ffe2b0")
    for top, colour in ((0.5, "#d98f4e"), (0.66, "#e3a860"), (0.82, "#c98845")):
        image = covered(image, solid(ridge(random, top, 0.14, 3, 1)), colour)
    pen = ImageDraw.Draw(image)
    for corner in ((120, 560), (880, 500), (620, 800)):
        for limb in CACTUS:
            points = [tuple(point) for point in np.array(limb) + corner]
            pen.line(points, fill="#2f7a3f", width=38, joint="curve")
            pen.circle(points[-1], 19, fill="#2f7a3f")
    return image


def rain(random: Random) -> Image.Image:
    """Slanting streaks before grey clouds."""
    clouds = ramp(0.6 * noise(random, 3, 5, 5) + 0.4 * DOWN, "#4c5a68", "#6d7c8a", "#93a1ad")
    falling = NEEDLE @ [[0.2, 1], [-1, 0.2]]
    return scattered(random, clouds, falling, "#c3d2de #aebfcd", 420, (26, 60), 2)


def aurora(random: Random) -> Image.Image:
    """Green curtains of light over a black shore."""
    night = scattered(random, ramp(DOWN, "#050a1c", "#0c2237"), DISC, "#ffffff", 160, (1, 3))
    rays = noise(random, 40, 1, 3)
    for top, colour in ((0.62, "#8a4fd0"), (0.5, "#35e08a"), (0.72, "#2bd6a0")):
        above = -ridge(random, top, 0.45, 3, 2)
        curtain = np.where(above > 0, np.exp(-above * 5), np.exp(above * 40))
        night = covered(night, curtain * (0.35 + 0.65 * rays), colour)
    return covered(night, solid(ridge(random, 0.88, 0.12, 4)), "#03060c")


def bubbles(random: Random) -> Image.Image:
    """Clear balls with a rim and a glint."""
    image = ramp((ACROSS + DOWN) / 2, "#f7b7d8", "#b9b4f2", "#8fd8ee")
    for _ in range(26):
        x, y, radius = *random.random(2), random.uniform(0.03, 0.13)
        distance = np.hypot(ACROSS - x, DOWN - y) / radius
        image = covered(image, 0.75 * (distance < 1) * distance**5, "#ffffff")
        glint = np.hypot(ACROSS - x + radius * 0.45, DOWN - y + radius * 0.45) / radius
        image = covered(image, 6 * (0.16 - glint), "#ffffff")
    return image


def drop(
    random: Random,
    shape: np.ndarray,
    grounds: str,
    colours: str,
    count: int,
    sizes: tuple[int, int],
) -> Image.Image:
    """Copies of a shape strewn over a blotched ground."""
    ground = ramp(noise(random, 4), *grounds.split())
    return scattered(random, ground, shape, colours, count, sizes)


# Read after the name of what is on them.
BACKGROUNDS: dict[str, Background] = {
    "on_a_textured_wall_painted_red": painted_wall,
    "on_white_marble_with_grey_veins": partial(marble, colours="#8d9096 #dcdde0 #f3f3f3 #fcfcfc"),
    "on_black_marble_with_golden_veins": partial(marble, colours="#e0b458 #3a3024 #17171a #1f1f24"),
    "on_a_red_brick_wall": bricks,
    "on_brown_wooden_planks": partial(planks, browns="#8a5a33 #7b4e2a #96643a #835530"),
    "on_rough_grey_concrete": concrete,
    "on_a_black_and_white_checkered_floor": checkers,
    "on_turquoise_hexagon_tiles": hexagons,
    "on_a_pale_terrazzo_floor": terrazzo,
    "on_a_colorful_stained_glass_window": stained_glass,
    "on_a_mosaic_of_small_blue_tiles": partial(
        tiled,
        width=64,
        height=64,
        colours="#1c4f9c #2b6cc4 #5b9be0 #173a75 #8fc1ee",
        joint="#e8e4d8",
    ),
    "on_black_rock_with_glowing_lava": lava,
    "on_a_sheet_of_brushed_steel": steel,
    "on_black_woven_carbon_fibre": carbon,
    "on_a_green_circuit_board": circuit,
    "on_a_wall_of_green_bamboo": bamboo,
    "on_crumpled_white_paper": crumpled_paper,
    "on_blue_graph_paper": graph_paper,
    "on_a_dusty_green_chalkboard": chalkboard,
    "on_blue_denim_cloth": denim,
    "on_a_red_and_green_tartan": tartan,
    "on_pink_paper_with_white_polka_dots": partial(
        dots, ground="#f08bb0", colour="#fff6fa", count=5, radius=0.27
    ),
    "on_a_yellow_page_of_halftone_dots": partial(
        dots, ground="#ffd93b", colour="#e5383b", count=12, radius=0.08 + 0.5 * DOWN
    ),
    "on_yellow_and_black_diagonal_stripes": lambda random: ramp(
        (stripes(ACROSS + DOWN, 5) - 0.5) * 40 + 0.5, "#f7c81e", "#1c1b1a"
    ),
    "on_a_brown_corkboard": cork,
    "on_a_topographic_map_with_contour_lines": map_contours,
    "on_a_desk_seen_from_above": desk,
    "in_a_soft_pink_glow": lambda random: ramp(
        1.35 * np.hypot(ACROSS - 0.5, DOWN - 0.5), "#fff3f6", "#ff9dbd", "#d6336c", "#6a1145"
    ),
    "in_a_blue_sky_with_clouds": sky,
    "in_a_starry_night_sky": stars,
    "over_the_waves_of_a_blue_sea": waves,
    "on_rippled_desert_sand": dunes,
    "on_a_green_lawn_seen_from_above": lawn,
    "on_freshly_fallen_white_snow": snow,
    "in_an_orange_and_purple_sunset_sky": sunset,
    "above_a_city_skyline_at_night": skyline,
    "in_front_of_snowy_mountains": mountains,
    "in_a_foggy_pine_forest": pine_forest,
    "in_a_desert_with_green_cactuses": desert,
    "in_the_rain_under_grey_clouds": rain,
    "under_green_northern_lights": aurora,
    "among_floating_soap_bubbles": bubbles,
    "on_fallen_autumn_leaves": partial(
        drop,
        shape=MAPLE,
        grounds="#4a2f1a #6a4424",
        colours="#c8441b #e07b1f #e9b22c #a3301a #8a5a22 #d9602a",
        count=290,
        sizes=(44, 78),
    ),
    "among_pieces_of_colorful_confetti": partial(
        drop,
        shape=SLIP,
        grounds="#fdfbf6 #f6f1ea",
        colours="#e63946 #ffb703 #2a9d8f #4361ee #b5179e #06d6a0",
        count=260,
        sizes=(10, 22),
    ),
}
