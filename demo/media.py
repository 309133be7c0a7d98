"""What a picture is made with: photo, watercolor, oil, … This file knows how each looks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from demo.palette import Random
from demo.patterns import grid, noise

Pixels = np.ndarray  # 0 to 255: (side, side, 3)


def _pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture, np.float32)


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def photo(random: Random, picture: Image.Image) -> Image.Image:
    """Light from one side, and a little grain."""
    light = 0.9 + 0.2 * noise(random, picture.width, 1)
    grain = random.normal(0, 3, (picture.width, picture.width, 1)).astype(np.float32)
    return _image(_pixels(picture) * light[..., None] + grain)


def watercolor(random: Random, picture: Image.Image) -> Image.Image:
    """Pastel colours in blotches that fade into the paper at the border."""
    side = picture.width
    soft = _pixels(picture.filter(ImageFilter.GaussianBlur(side / 110)))
    blotches = noise(random, side, 5)
    down, across = grid(side)
    inside = np.minimum.reduce([down, across, 1 - down, 1 - across]) * 14 - 1.2 * blotches
    amount = (0.35 + 0.4 * blotches) * inside.clip(0, 1)
    paper = np.array((252, 248, 238), np.float32) - 5 * noise(random, side, 40)[..., None]
    return _image(paper + (soft - paper) * amount[..., None])


def oil(random: Random, picture: Image.Image) -> Image.Image:
    """Vibrant colours in thick, slanting strokes."""
    side = picture.width
    down, across = grid(side)
    bend = noise(random, side, 12) - 0.5
    y = ((down + 0.05 * bend) * side).astype(int).clip(0, side - 1)
    x = ((across + 0.05 * bend) * side).astype(int).clip(0, side - 1)
    moved = Image.fromarray(np.asarray(picture)[y, x])
    vivid = _pixels(ImageEnhance.Color(moved).enhance(1.7))
    strokes = np.sin(2 * np.pi * (11 * (down + across) + 2.5 * noise(random, side, 6)))
    return _image((vivid - 128) * 1.1 + 122 + 20 * strokes[..., None])


def pencil(random: Random, picture: Image.Image) -> Image.Image:
    """Grey outlines and hatching on paper, with a touch of colour."""
    side = picture.width
    edges = _pixels(picture.filter(ImageFilter.FIND_EDGES).convert("L")).clip(0, 110)
    edges[:2], edges[-2:], edges[:, :2], edges[:, -2:] = 0, 0, 0, 0
    down, across = grid(side)
    hatch = np.sin(2 * np.pi * 22 * (down - across)) > 0
    dark = 1 - _pixels(picture.convert("L")) / 255
    paper = np.array((247, 245, 240), np.float32) * (1 - 0.25 * dark * hatch)[..., None]
    tinted = paper + 0.42 * (_pixels(picture) - 235)
    return _image(tinted - 1.3 * edges[..., None])


def tarot(random: Random, picture: Image.Image) -> Image.Image:
    """Old paper's tones, in a dark border with two golden lines."""
    side = picture.width
    aged = _pixels(ImageEnhance.Color(picture).enhance(0.75)) * (0.95, 0.87, 0.7) + 12
    card = _image(aged)
    pen, gold = ImageDraw.Draw(card), "#d8ab3c"
    for inset, colour, width in ((0, "#22143a", 0.075), (0.03, gold, 0.02), (0.075, gold, 0.012)):
        box = (inset * side, inset * side, (1 - inset) * side - 1, (1 - inset) * side - 1)
        pen.rectangle(box, outline=colour, width=max(1, round(width * side)))
    for across in (0.1, 0.9):
        for down in (0.1, 0.9):
            pen.circle((across * side, down * side), 0.06 * side, fill="#22143a", outline=gold)
    return card


def pixel_art(random: Random, picture: Image.Image) -> Image.Image:
    """Sixteen by sixteen squares."""
    few = picture.resize((16, 16), Image.Resampling.BOX).quantize(12).convert("RGB")
    return few.resize(picture.size, Image.Resampling.NEAREST)


def mosaic(random: Random, picture: Image.Image) -> Image.Image:
    """Small stones of uneven colour with dark joints."""
    side, count = picture.width, 13
    stones = _pixels(picture.resize((count, count), Image.Resampling.BOX))
    stones = stones + random.normal(0, 14, (count, count, 1))
    laid = _image(stones).resize(picture.size, Image.Resampling.NEAREST)
    pen, step = ImageDraw.Draw(laid), side / count
    for line in range(count + 1):
        pen.line((line * step, 0, line * step, side), fill="#3b3834", width=max(1, side // 64))
        pen.line((0, line * step, side, line * step), fill="#3b3834", width=max(1, side // 64))
    return laid


def comic(random: Random, picture: Image.Image) -> Image.Image:
    """Few, bright colours and black outlines."""
    flat = _pixels(ImageEnhance.Color(picture).enhance(1.5))
    flat = (np.round(flat / 85) * 85 - 128) * 1.1 + 140
    soft = picture.filter(ImageFilter.GaussianBlur(picture.width / 160))
    edges = _pixels(soft.filter(ImageFilter.FIND_EDGES).convert("L")) > 26
    edges[:2], edges[-2:], edges[:, :2], edges[:, -2:] = False, False, False, False
    return _image(np.where(edges[..., None], 12, flat))


@dataclass(frozen=True)
class Medium:
    """One medium: phrases to put a subject into, and words that may follow the whole."""

    draw: Callable[[Random, Image.Image], Image.Image]
    phrases: tuple[str, ...]
    remarks: tuple[str, ...] = ()


MEDIA: dict[str, Medium] = {
    "photo": Medium(
        photo,
        ("a photo of {}", "a picture of {}", "a close-up photo of {}", "a rendering of {}"),
        ("sharp lines", "concept art"),
    ),
    "watercolor": Medium(
        watercolor,
        ("a watercolor painting of {}", "a watercolor of {}"),
        ("soft strokes", "pastel colors"),
    ),
    "oil": Medium(
        oil,
        ("an oil painting of {}",),
        ("with vibrant colors and thick strokes", "masterpiece"),
    ),
    "pencil": Medium(pencil, ("a pencil sketch of {}", "a pencil drawing of {}"), ("fine lines",)),
    "tarot": Medium(
        tarot,
        ("a tarot card with an illustration of {}", "a tarot card of {}"),
        ("mystical colors", "intricate lines"),
    ),
    "pixels": Medium(pixel_art, ("pixel art of {}",), ("retro game",)),
    "mosaic": Medium(mosaic, ("a mosaic of {}",), ("small stones",)),
    "comic": Medium(comic, ("a comic book drawing of {}", "a comic of {}"), ("bold outlines",)),
}
