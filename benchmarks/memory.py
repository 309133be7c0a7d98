"""What training takes in memory, computed without any of it: python -m benchmarks.memory

The UNets of Stable Diffusion 1.x and XL are real, their tensors are not (torch's FakeTensor): each
says how large it would be. The graph's are those that autograd saves for
the backward pass. Left out are the text encoders' activations, what a kernel needs for itself, and
what the allocator holds back.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.models import SIZES
from detsd.lora import UNET

RANK = 8
GB = 1e9


class Family(NamedTuple):
    """A UNet's shape, and what lies beside it."""

    unet: dict[str, Any]
    side: int  # of its latents
    width: int  # of its conditioning
    encoders: int  # parameters of the text encoders
    pooled: int | None = None


FAMILIES = {
    "SD 1.x at 512": Family(SIZES["sd1"].unet, 64, 768, 123_060_480),
    "SDXL at 1024": Family(SIZES["sdxl"].unet, 128, 2048, 817_720_320, 1280),
}


def main() -> None:
    """Print a row for each way to train."""
    print(
        f"{'':15} {'method':6} {'ckpt':4} {'weights':>8} {'grads':>6} {'adam':>6} {'8 bit':>6}"
        f" {'a sample':>9} {'two':>6} {'two, 8 bit':>10}   GB"
    )
    for name, family in FAMILIES.items():
        for method in ("lora", "full"):
            for checkpointing in (False, True):
                print_row(name, family, method, checkpointing)


def print_row(name: str, family: Family, method: str, checkpointing: bool) -> None:
    """Print what one way takes."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet = build(family, torch.bfloat16 if method == "lora" else torch.float32)
        learnt = learn(unet, method)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        frozen = [p for p in unet.parameters() if not p.requires_grad]
        # All of a model whose weights learn is in full precision.
        beside = (2 if method == "lora" else 4) * family.encoders
        weights = sum(map(size, frozen)) + 4 * learnt + beside
        sample = activations(unet, family)
    adam, small = 8 * learnt, 2 * learnt
    total = weights + 4 * learnt + 2 * sample  # of the thing and of its class, one each
    columns = [weights, 4 * learnt, adam, small, sample, total + adam, total + small]
    shown = " ".join(
        f"{value / GB:{width}.2f}"
        for value, width in zip(columns, (8, 6, 6, 6, 9, 6, 10), strict=True)
    )
    print(f"{name:15} {method:6} {'yes' if checkpointing else 'no':4} {shown}")


def build(family: Family, dtype: torch.dtype) -> Any:
    """Return the UNet, of nothing."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return UNet2DConditionModel(**family.unet).requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def learn(unet: Any, method: str) -> int:
    """Make it learn; return how many numbers do."""
    if method == "full":
        unet.requires_grad_(True)
        return sum(p.numel() for p in unet.parameters())
    for name, layer in list(unet.named_modules()):
        if re.search(UNET["attention"], f".{name}"):
            owner, _, own = name.rpartition(".")
            setattr(unet.get_submodule(owner), own, LowRank(layer))
    return sum(p.numel() for p in unet.parameters() if p.requires_grad)


class LowRank(torch.nn.Module):
    """A layer and its change: peft's own does not let itself be made of nothing."""

    def __init__(self, layer: Any):
        super().__init__()
        self._layer = layer
        self._down = torch.nn.Linear(layer.in_features, RANK, bias=False)
        self._up = torch.nn.Linear(RANK, layer.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output and the change to it."""
        return self._layer(x) + self._up(self._down(x))


def activations(unet: Any, family: Family) -> int:
    """Return the bytes that the backward pass of one sample needs."""
    side, dtype = family.side, torch.bfloat16
    states = torch.empty(1, 77, family.width, dtype=dtype)
    added = None
    if family.pooled:
        added = {
            "text_embeds": torch.empty(1, family.pooled, dtype=dtype),
            "time_ids": torch.empty(1, 6, dtype=dtype),
        }
    noisy = torch.empty(1, 4, side, side, dtype=dtype)
    with saved(unet) as kept, torch.autocast("cpu", dtype):
        unet(noisy, torch.tensor([5]), states, added_cond_kwargs=added)
    return sum(kept.values())


@contextmanager
def saved(unet: Any) -> Iterator[dict[int, int]]:
    """Note the tensors that autograd saves, weights apart, each of them once."""
    weights = {p.untyped_storage()._cdata for p in unet.parameters()}
    found: dict[int, int] = {}
    held = []  # so that no other takes the place of one that is gone

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            held.append(storage)
            found[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield found


def size(parameter: torch.Tensor) -> int:
    """Return its bytes."""
    return parameter.numel() * parameter.element_size()


if __name__ == "__main__":
    main()
