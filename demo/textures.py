"""Pictures computed pixel by pixel. This file knows how numbers become colour, light and grain."""

import numpy as np
from PIL import Image, ImageColor

SIDE = 1024  # twice the picture, so that shrinking it smooths every edge

Random = np.random.Generator
Field = np.ndarray  # one number per pixel, mostly from 0 to 1: (SIDE, SIDE)

# How far down and how far across each pixel lies, from 0 to 1; views of SIDE numbers each.
DOWN, ACROSS = np.broadcast_arrays(*np.ogrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j])


def noise(
    random: Random, across: int, down: int | None = None, octaves: int = 4, side: int = SIDE
) -> Field:
    """Smooth spots, the largest of which fit across times across and down times down."""
    total = np.zeros((side, side))
    for octave in range(octaves):
        shape = ((down or across) * 2**octave + 1, across * 2**octave + 1)
        grid = Image.fromarray(random.random(shape, dtype=np.float32))
        total += np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC)) / 2**octave
    return (total - total.min()) / np.ptp(total)


def ramp(field: Field, *colours: str | tuple[int, int, int]) -> Image.Image:
    """Each number as a colour, that far on the way through the colours."""
    stops = np.array([ImageColor.getrgb(c) if isinstance(c, str) else c for c in colours])
    places = np.linspace(0, 1, len(stops))
    bands = [np.interp(field, places, stops[:, band]) for band in range(3)]
    return Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8))


def lit(image: Image.Image, light: Field) -> Image.Image:
    """The image with its brightness multiplied."""
    return Image.fromarray((np.asarray(image) * light[..., None]).clip(0, 255).astype(np.uint8))


def relief(height: Field, depth: float) -> Field:
    """The light on a surface of that height when it falls from the upper left."""
    return 1 + depth * SIDE * sum(np.gradient(height))


def covered(image: Image.Image, amount: Field, colour: str | tuple[int, int, int]) -> Image.Image:
    """The image under a colour, laid on by amount: 0 nothing of it, 1 nothing else."""
    mask = Image.fromarray((amount.clip(0, 1) * 255).astype(np.uint8))
    return Image.composite(Image.new("RGB", image.size, colour), image, mask)


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
