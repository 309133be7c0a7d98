"""A layer of an adapter: what is added to the weight of one module."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from detsd.layouts import ALPHA, DOWN, MAGNITUDE, SCALE, UP

Given = Mapping[str, torch.Tensor]

_NUMBERS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)
_FLOAT32 = torch.finfo(torch.float32)


class Layer(NamedTuple):
    """What is added is alpha / rank × up · down."""

    down: torch.Tensor  # (rank, in) or (rank, in, k, k)
    up: torch.Tensor  # (out, rank) or (out, rank, 1, 1)
    alpha: float
    magnitude: torch.Tensor | None = None  # (out,): how long DoRA makes each row of the sum

    @property
    def rank(self) -> int:
        """Of how many directions of its input the layer takes notice."""
        return len(self.down)


def layer_of(given: Given) -> Layer:
    """Return the layer of a file's tensors by role, in float32, or raise a ValueError."""
    if lacking := sorted({DOWN, UP} - given.keys()):
        raise ValueError(f"lacks its {' and '.join(lacking)}, has {' and '.join(sorted(given))}")
    down, up = _read(given[DOWN]), _read(given[UP])
    shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
    linear = down.dim() == up.dim() == 2
    convolution = down.dim() == up.dim() == 4 and up.shape[2:] == (1, 1)
    if not (linear or convolution) or not (down.numel() and up.numel()):
        raise ValueError(f"(rank, in) and (out, rank) are wanted, found {shapes}")
    if up.shape[1] != len(down):
        raise ValueError(f"its down and up are of different ranks, found {shapes}")
    # All readers take the rank where nothing is said; kohya's do so for 0, too.
    alpha = _only(given[ALPHA]) if ALPHA in given else 0
    return Layer(down, up, checked_alpha(alpha or len(down)), _magnitude(given, len(up)))


def checked_alpha(alpha: Any) -> float:
    """Return the alpha that a file has somewhere, or raise a ValueError."""
    is_number = isinstance(alpha, (int, float)) and alpha is not True
    # Files have it in float32: what is none there is none. Of comparisons no integer is too large.
    if is_number and _FLOAT32.tiny <= abs(alpha) <= _FLOAT32.max:
        return float(alpha)
    raise ValueError(f"a number is wanted for alpha, found {alpha!r:.100}")


def unfolded(layer: Layer, alpha: float) -> Layer:
    """Return the layer without alpha / rank in its `up`, or raise a ValueError."""
    return layer._replace(alpha=alpha, up=_finite(layer.up * (layer.rank / alpha)))


def _read(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in _NUMBERS:
        raise ValueError(f"real numbers of 8 to 64 bits are wanted, found {tensor.dtype}")
    return _finite(tensor.to(torch.float32, copy=True))


def _finite(tensor: torch.Tensor) -> torch.Tensor:
    if not bool(tensor.isfinite().all()):
        raise ValueError("has numbers that are none (inf or nan), of a run that diverged")
    return tensor


def _only(tensor: torch.Tensor) -> object:
    return tensor.item() if tensor.numel() == 1 else tuple(tensor.shape)


def _magnitude(given: Given, rows: int) -> torch.Tensor | None:
    for role, tensor in given.items():
        if role not in (MAGNITUDE, SCALE):
            continue
        shape = tuple(tensor.shape)
        plain = shape[:1] == (rows,) and tensor.numel() == rows
        if not plain and (role == SCALE or shape != (1, rows, 1, 1)):
            raise ValueError(
                f"DoRA's magnitudes are wanted by row, ({rows},), found {shape}; by column, as "
                "LyCORIS can have them, they are not supported"
            )
        return _read(tensor).flatten()
    return None
