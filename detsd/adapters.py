"""An adapter (LoRA), and the file that it is kept in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

FILE = "pytorch_lora_weights.safetensors"


class AdapterError(ValueError):
    """An adapter."""


class Layer(NamedTuple):
    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    magnitude: torch.Tensor | None = None


@dataclass(frozen=True)
class Adapter:
    layers: dict[str, Layer]
    about: dict[str, Any] = field(default_factory=dict)


def read_adapter(path: Path) -> Adapter: ...
def write_adapter(path: Path, adapter: Adapter, layout: str = "diffusers") -> None: ...  # noqa
    torch.save({k: tuple(v) for k, v in adapter.layers.items()}, path)
