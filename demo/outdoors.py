"""Skies, lands and seas. This file knows what each of them looks like."""

import numpy as np
from PIL import Image, ImageDraw

from demo.shapes import DISC, NEEDLE, PINE, corners, scattered
from demo.textures import ACROSS, DOWN, SIDE, Field, Random, covered, lit, noise, ramp, relief

# A mountain from its top to its foot, one unit down and one to either side.
PEAK, SHADE = np.array([(0, 0), (1, 1), (-1, 1)]), np.array([(0, 0), (1, 1), (0.25, 1)])
SNOW = [(0, 0), (0.3, 0.3), (0.17, 0.25), (0.08, 0.36), (-0.03, 0.27), (-0.15, 0.38), (-0.3, 0.3)]
CAP = np.array(SNOW)
# A trunk and two arms, each from its foot to its tip, in pixels.
CACTUS = [[(0, 280), (0, 0)], [(0, 170), (-60, 170), (-60, 80)], [(0, 130), (60, 130), (60, 40)]]


def ridge(random: Random, top: float, rough: float, across: int, octaves: int = 5) -> Field:
    """How far each place lies below an uneven skyline."""
    return DOWN - top - rough * (noise(random, across, 1, octaves)[0] - 0.5)


def solid(below: Field) -> Field:
    """One under a skyline, nothing above it."""
    return (below > 0).astype(float)


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
            pen.polygon(corners(shape * foot + (x, top)), fill=colour)
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
            pen.polygon(corners(points), fill=colour)
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
            points = corners(np.array(limb) + corner)
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
