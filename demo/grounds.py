"""What lies behind the subject of a picture. This file knows each ground and its words."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from demo import textures
from demo.palette import COLOURS, Colour, Random, mixed, paler, shade
from demo.textures import Field, covered, ramp


def grid(side: int) -> tuple[Field, Field]:
    """How far down and how far across each pixel lies, from 0 to 1."""
    down, across = np.mgrid[0:side, 0:side].astype(np.float32) / side
    return down, across


def noise(random: Random, side: int, across: int, down: int | None = None) -> Field:
    """Smooth spots, of which so many fit across and down, and finer ones on them."""
    return textures.noise(random, across, down, octaves=3, side=side)


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


# Patterns of one colour: "on a blue striped background".


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


# Scenes with colours of their own: "in a starry night sky".


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


@dataclass(frozen=True)
class Ground:
    """One ground: its words, and the colour that nothing on it should have."""

    form: str
    colour: str

    @property
    def words(self) -> str:
        """Read after the name of what is on it."""
        return self.form.format(self.colour)

    def draw(self, random: Random, side: int) -> Image.Image:
        """Draw it, a square."""
        if self.form in SCENES:
            return SCENES[self.form][1](random, side)
        return PATTERNS[self.form](random, side, shade(random, self.colour))


def choose_ground(random: Random, avoid: tuple[str, ...]) -> Ground:
    """A pattern or a scene whose colour is not one of those to avoid."""
    colours = [name for name in COLOURS if name not in avoid]
    if random.random() < 0.6:
        return Ground(str(random.choice(list(PATTERNS))), str(random.choice(colours)))
    scenes = [form for form, (colour, _) in SCENES.items() if colour not in avoid]
    form = str(random.choice(scenes))
    return Ground(form, SCENES[form][0])
