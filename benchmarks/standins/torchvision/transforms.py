"""Pictures to tensors, by the names of torchvision: as much of it as the peers' scripts use."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

Step = Callable[[Any], Any]


class InterpolationMode:
    """How pixels are resized."""

    NEAREST = Image.Resampling.NEAREST
    BILINEAR = Image.Resampling.BILINEAR
    BICUBIC = Image.Resampling.BICUBIC
    LANCZOS = Image.Resampling.LANCZOS


class Compose:
    """One step after another."""

    def __init__(self, steps: Sequence[Step]):
        self._steps = steps

    def __call__(self, image: Any) -> Any:
        """Take them all."""
        for step in self._steps:
            image = step(image)
        return image


class Resize:
    """The shorter side to a size."""

    def __init__(self, size: int, interpolation: Any = InterpolationMode.BILINEAR):
        self._size = size
        self._interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the resized picture."""
        scale = self._size / min(image.size)
        width, height = (max(self._size, round(edge * scale)) for edge in image.size)
        return image.resize((width, height), self._interpolation)


class CenterCrop:
    """The middle square."""

    def __init__(self, size: int):
        self._size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the part of the picture."""
        left, top = ((edge - self._size) // 2 for edge in image.size)
        return image.crop((left, top, left + self._size, top + self._size))


class RandomCrop(CenterCrop):
    """Any square."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the part of the picture."""
        left, top = (random.randint(0, edge - self._size) for edge in image.size)
        return image.crop((left, top, left + self._size, top + self._size))


class ToTensor:
    """Levels of 0…255 to 0…1."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return (3, height, width)."""
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class Normalize:
    """Away with a mean, over a spread."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the pixels, usually -1…1."""
        return (pixels - self._mean.view(-1, 1, 1)) / self._std.view(-1, 1, 1)


class RandomHorizontalFlip:
    """Mirrored, as often as not."""

    def __init__(self, p: float = 0.5):
        self._p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the picture, or its mirror image."""
        flipped = Image.Transpose.FLIP_LEFT_RIGHT
        return image.transpose(flipped) if random.random() < self._p else image
