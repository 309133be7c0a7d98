"""What tells one thing that was learnt from another: a digest of what is in it, not of its name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from detsd.adapters import Adapter
from detsd.concepts import Concept

PIECE = 65_536  # bytes
PIECES = 16  # of a file


def of_concept(concept: Concept) -> str:
    """Return a digest of the vectors."""
    digest = hashlib.blake2b(digest_size=8)
    for key in sorted(concept.vectors):
        digest.update(concept.vectors[key].numpy().tobytes())
    return digest.hexdigest()


def of_adapter(adapter: Adapter) -> str:
    """Return a digest of the layers, whatever file they came in."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(adapter.layers):
        down, up, alpha, magnitude = adapter.layers[name]
        digest.update(f"{name} {tuple(down.shape)} {tuple(up.shape)} {alpha}".encode())
        for factor in (down, up, magnitude):
            if factor is not None:
                digest.update(factor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def of_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """Return a digest of every number, how it is kept and what it belongs to."""
    digest = hashlib.sha256()  # which processors have an instruction for
    for name in sorted(weights):
        weight = weights[name].detach().cpu()
        digest.update(f"{name} {weight.shape} {weight.stride()} {weight.dtype}".encode())
        # As bytes: numpy has no bfloat16.
        digest.update(weight.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_model(name: str) -> str:
    """Return a digest of the folder or file of that name; one of the hub's is known by its name."""
    path = Path(name)
    if path.is_file():
        return _of_files({path.suffix: path})
    return of_folder(path) if path.is_dir() else name


def of_folder(folder: Path) -> str:
    """Return a digest of pieces of each file: training moves all of a model's weights."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return _of_files({str(path.relative_to(folder)): path for path in paths})


def _of_files(files: Mapping[str, Path]) -> str:
    """Return a digest of pieces of each file, and of what it is called here."""
    digest = hashlib.blake2b(digest_size=8)
    for name, path in files.items():
        size = path.stat().st_size
        digest.update(f"{name} {size}".encode())
        step = max(PIECE, size // PIECES)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.hexdigest()
