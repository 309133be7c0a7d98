"""Numbers on their way to a device. This file knows how not to wait for them."""

from collections.abc import Sequence

import torch


def send(
    values: Sequence[int] | Sequence[float] | torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Return the values as a tensor on the device.

    Made there at once, torch.tensor(values, device=device), a few numbers would keep the host
    waiting until the device had done all that it was asked before.
    """
    there = values if isinstance(values, torch.Tensor) else torch.tensor(values)
    return there.to(device, non_blocking=True)
