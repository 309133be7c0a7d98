"""Pictures that carry a concept, made as the web UI makes them."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


def as_text(content: dict[str, Any]) -> str:
    """What stands in a PNG's text."""
    return base64.b64encode(_json(content)).decode()


def hide(content: dict[str, Any], path: Path, height: int = 128) -> None:
    """Put the content into a picture's pixels, a block at either edge, and write it."""
    hide_bytes(zlib.compress(_json(content), 9), path, height)


def hide_bytes(packed: bytes, path: Path, height: int = 128) -> None:
    """Put these bytes there."""
    columns = -(-len(packed) // (3 * height)) + 1
    data = np.resize(np.frombuffer(packed, np.uint8), height * columns * 3)
    blocks = [_masked(half.reshape(height, columns, 3)) for half in (data & 15, data >> 4)]
    gap, between = np.zeros((height, 1, 3), np.uint8), np.full((height, 64, 3), 77, np.uint8)
    whole = np.concatenate([blocks[0], gap, between, gap, blocks[1]], axis=1)
    Image.fromarray(whole).save(path, lossless=True)


def _masked(block: np.ndarray) -> np.ndarray:
    """Add the noise, and the shade above the four bits in which the content is."""
    state, noise = 0, []
    for _ in range(block.size):
        state = (state * 1664525 + 1013904223) % 4294967296
        noise.append((state % 255) & 15)
    return (block ^ np.array(noise, np.uint8).reshape(block.shape)) | 0x90


def _json(content: dict[str, Any]) -> bytes:
    def plain(value: Any) -> Any:
        assert isinstance(value, torch.Tensor)
        return {"TORCHTENSOR": value.tolist()}

    return json.dumps(content, default=plain).encode()
