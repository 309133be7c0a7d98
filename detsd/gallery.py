"""Images side by side, with what they show written above them."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN = 8
FONT_SIZE = 14
SMALL = 11  # of a label below its image
LEAST_SIDE = 128
LEAST_WIDTH = 400  # so that a title is read in few lines


def sheet(
    images: Sequence[Image.Image], columns: int, title: str = "", labels: Sequence[str] = ()
) -> Image.Image:
    """Return one picture of all the images, row by row, under a title, each over its label."""
    images = [_legible(image) for image in images]
    if labels:
        images = _labelled(images, labels)
    width, height = images[0].size
    rows = -(-len(images) // columns)
    full_width = max(columns * (width + MARGIN) + MARGIN, LEAST_WIDTH)
    lines = _wrap(title, full_width - 2 * MARGIN)
    top = MARGIN + len(lines) * (FONT_SIZE + 4)
    page = Image.new("RGB", (full_width, top + rows * (height + MARGIN)), "white")
    ImageDraw.Draw(page).multiline_text(
        (MARGIN, MARGIN // 2), "\n".join(lines), "black", _font(), spacing=4
    )
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        page.paste(image, (MARGIN + column * (width + MARGIN), top + row * (height + MARGIN)))
    return page


def _labelled(images: Sequence[Image.Image], labels: Sequence[str]) -> list[Image.Image]:
    width = images[0].width
    lines = [_wrap(label, width, SMALL) for label in labels]
    height = max(map(len, lines)) * (SMALL + 3) + 4
    tiles = []
    for image, text in zip(images, lines, strict=True):
        tile = Image.new("RGB", (width, image.height + height), "white")
        tile.paste(image)
        ImageDraw.Draw(tile).multiline_text(
            (0, image.height + 1), "\n".join(text), "black", _font(SMALL), spacing=3
        )
        tiles.append(tile)
    return tiles


def _legible(image: Image.Image) -> Image.Image:
    """Return a tiny model's picture in larger pixels, any other as it is."""
    times = max(1, LEAST_SIDE // min(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _wrap(text: str, width: int, size: int = FONT_SIZE) -> list[str]:
    letters = max(8, int(width / _font(size).getlength("n")))
    return textwrap.wrap(text, letters)


def _font(size: int = FONT_SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
