"""A learnt word inside a picture, as AUTOMATIC1111's web UI hides it there to be passed around.

In a PNG it is a text: base64 of JSON. Where a picture has no texts (WebP), the JSON is compressed
and its bytes are in the pixels: the low four bits of each in a block at the picture's left edge,
the high four at its right, a black column beside either.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

TEXT = "sd-ti-embedding"
TENSOR = "TORCHTENSOR"  # the key of a tensor's numbers in the JSON
MOST_PIXELS = 1 << 24
MOST_BYTES = 1 << 23  # of JSON; those of 75 vectors are two megabytes
MOST_HIDDEN = 1 << 21  # of them compressed

Bytes = npt.NDArray[np.uint8]


def is_picture(start: bytes) -> bool:
    """Return whether a file with this start is a PNG or a WebP."""
    return start[:8] == b"\x89PNG\r\n\x1a\n" or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def read_picture(path: Path) -> dict[str, Any]:
    """Return what the picture carries, or raise a ValueError."""
    try:
        with Image.open(path, formats=("PNG", "WEBP")) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"is a picture of {image.width} × {image.height} pixels")
            if getattr(image, "is_animated", False):  # its texts come behind the last picture
                raise ValueError("is animated")
            text = getattr(image, "text", {}).get(TEXT)
            plain = base64.b64decode(text) if text else _hidden(np.asarray(image.convert("RGB")))
        if len(plain) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        found = json.loads(plain, object_hook=_with_tensors)
    # Pillow raises what it likes about a damaged picture.
    except Exception as error:
        raise ValueError(f"is a picture, and no concept can be read from it ({error})") from None
    if not isinstance(found, dict):
        raise ValueError("is a picture that carries something else than a concept")
    return found


def _with_tensors(found: dict[str, Any]) -> Any:
    if found.keys() != {TENSOR}:
        return found
    return torch.tensor(found[TENSOR], dtype=torch.float32)


def _hidden(pixels: Bytes) -> bytes:
    """Return the bytes that are in the blocks at the edges."""
    rows, columns = pixels.any(axis=(1, 2)), pixels.any(axis=(0, 2))
    if not rows.any():
        raise ValueError("it is black")
    pixels = pixels[_from_first_to_last(rows), _from_first_to_last(columns)]
    pixels = pixels & np.uint8(0x0F)
    (between,) = np.where(~pixels.any(axis=(0, 2)))  # the black columns beside the blocks
    if len(between) < 2:
        raise ValueError(f"it has no text {TEXT}, nor the blocks that would stand for it")
    low, high = pixels[:, : between[0]], pixels[:, between[-1] + 1 :]
    if low.shape != high.shape or low.size > MOST_HIDDEN:
        raise ValueError("what it carries is damaged")
    noise = _noise(low.size).reshape(low.shape)
    whole = (high ^ noise) << 4 | (low ^ noise)
    return zlib.decompressobj().decompress(whole.tobytes(), MOST_BYTES + 1)


def _from_first_to_last(there: Any) -> slice:
    (places,) = np.where(there)
    return slice(places[0], places[-1] + 1)


def _noise(count: int) -> Bytes:
    """Return what lies over the bits of either block, the same in every file."""
    noise, state = np.empty(count, np.uint8), 0
    for place in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        noise[place] = state % 255 & 0x0F
    return noise
