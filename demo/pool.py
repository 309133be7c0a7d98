"""The world's pictures, drawn once and kept in a file. This file knows where each one lies."""

from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from inspect import getsource
from pathlib import Path

import numpy as np
from tqdm import tqdm

from demo import (
    figures,
    grounds,
    media,
    networks,
    outlines,
    palette,
    patterns,
    scenes,
    subjects,
    textures,
    world,
)

CHUNK = 500


def pictures(folder: Path, count: int, side: int, processes: int = 2) -> np.ndarray:
    """The first so many pictures of the world: (count, side, side, 3), 0 to 255."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{_digest()}-{side}"
    wanted = [
        (folder / f"{prefix}-{start:07d}.npy", start, side) for start in range(0, count, CHUNK)
    ]
    missing = [chunk for chunk in wanted if not chunk[0].exists()]
    if missing:
        with ProcessPoolExecutor(processes) as pool:
            list(tqdm(pool.map(_draw, missing), total=len(missing), desc=f"drawing, {CHUNK} each"))
    return np.concatenate([np.load(path) for path, *_ in wanted])[:count]


def _digest() -> str:
    """What the pictures follow from: the code that draws them."""
    things = (palette, outlines, figures, networks, subjects)
    sources = (*things, textures, patterns, scenes, grounds, media, world)
    code = "".join(map(getsource, sources))
    return sha256(code.encode()).hexdigest()[:8]


def _draw(chunk: tuple[Path, int, int]) -> None:
    path, start, side = chunk
    drawn = np.stack([np.asarray(world.picture(start + place, side)) for place in range(CHUNK)])
    part = path.with_suffix(".part.npy")
    np.save(part, drawn)
    part.replace(path)
