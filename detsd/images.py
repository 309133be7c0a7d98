"""A picture file, from any mode and format to a square of pixels."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
    ".bmp": "BMP",
}
INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class ImageError(ValueError):
    """A picture that cannot be used, and why."""


class View(NamedTuple):
    """A part of a picture, in its own pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Prepared(NamedTuple):
    """A picture as the model takes it, and what SDXL is told of where it came from."""

    pixels: torch.Tensor  # (3, size, size), -1…1
    origin: tuple[int, int, int, int]  # height and width of the original, top and left of the crop


@contextmanager
def strictly() -> Iterator[None]:
    """Take bombs for errors, and say nothing of what Pillow only warns of; in all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        yield


def read_image(path: Path) -> Image.Image:
    """Return the picture upright, in RGB, its transparent parts white."""
    with strictly():
        return decode_image(path)


def decode_image(path: Path, *, roughly: bool = False) -> Image.Image:
    """Do what `read_image` does, within `strictly`, in any thread.

    `roughly`, a JPEG comes in an eighth of its size, which takes a quarter of the time; what is
    wrong with it is found all the same.
    """
    try:
        with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
            if roughly:
                image.draft(None, (1, 1))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    # Decoders meet broken files with errors of every kind; each means that this one is no use.
    except Exception as error:
        raise ImageError(f"{path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "is empty"
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return f"is over {Image.MAX_IMAGE_PIXELS} pixels, as a decompression bomb would be"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"is none of {', '.join(sorted(set(FORMATS.values())))}"
    return f"cannot be read ({error or type(error).__name__})"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    peak = 65535 if image.mode.startswith("I") else 255 if values.max(initial=0) > 1 else 1
    return Image.fromarray((np.clip(values / peak, 0, 1) * 255).round().astype(np.uint8))


def whole(image: Image.Image) -> View:
    """Return the view of everything."""
    return View(0, 0, image.width, image.height)


def middle(image: Image.Image) -> View:
    """Return the largest square in the middle."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return View(left, top, left + side, top + side)


def part(view: View, scale: float, across: float, down: float) -> View:
    """Return the part with sides `scale` of the view's, placed by two numbers from 0 to 1."""
    width, height = view.right - view.left, view.bottom - view.top
    left = view.left + across * (1 - scale) * width
    top = view.top + down * (1 - scale) * height
    return View(left, top, left + scale * width, top + scale * height)


def prepare(image: Image.Image, view: View, size: int, interpolation: str, flip: bool) -> Prepared:
    """Return `view` of the picture as a square of `size` pixels, mirrored if `flip`."""
    shrink = min(view.right - view.left, view.bottom - view.top) / size
    left = image.width - view.right if flip else view.left  # of the picture as it is then seen
    origin = (image.height, image.width, round(view.top / shrink), round(left / shrink))
    method = INTERPOLATION[interpolation]
    square = image.resize((size, size), method, box=_within(view, image))
    square = ImageOps.mirror(square) if flip else square
    pixels = torch.from_numpy(np.array(square, dtype=np.float32))  # (size, size, 3), 0…255
    return Prepared(pixels.permute(2, 0, 1).contiguous() / 127.5 - 1, origin)


def _within(view: View, image: Image.Image) -> View:
    # Sums of rounded numbers may end a hair outside, which Pillow refuses.
    limit = (math.inf, math.inf, image.width, image.height)
    return View(*(max(0.0, min(value, most)) for value, most in zip(view, limit, strict=True)))
