"""Attention on a CPU in bf16: back through few tokens it is quicker in full precision."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.models.clip.modeling_clip import CLIPAttention

# Tokens that are looked at, as of a prompt or a small picture. There torch's kernel takes twice as
# long in bf16, forward and back together; with more of them neither is the quicker one.
FEW = 512


def attend_in_full(module: nn.Module) -> None:
    """Let the module's attention compute so where that is quicker; it stays its own."""
    for part in module.modules():
        if type(part) in IN_FULL:
            part.__class__ = IN_FULL[type(part)]


class _InFull(nn.Module):
    def forward(self, *given: Any, **named: Any) -> Any:
        """Return what it makes as ever, but for the precision in between."""
        # What is drawn has no way back, and a compiler would have to follow the mode.
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(*given, **named)
        with _Widening():
            return super().forward(*given, **named)


class FullAttention(_InFull, Attention):
    """The UNet's."""


class FullCLIPAttention(_InFull, CLIPAttention):
    """A text encoder's."""


IN_FULL: dict[type[nn.Module], type[nn.Module]] = {
    Attention: FullAttention,
    CLIPAttention: FullCLIPAttention,
}


class _Widening(TorchFunctionMode):
    """Takes the place of torch's attention, whoever calls it."""

    def __torch_function__(
        self, function: Any, types: Any, given: Any = (), named: Any = None
    ) -> Any:
        called = _attend if function is F.scaled_dot_product_attention else function
        return called(*given, **(named or {}))


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    **named: Any,
) -> torch.Tensor:
    attend = F.scaled_dot_product_attention
    if not _is_slow(query, key, value):
        return attend(query, key, value, attn_mask, **named)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.float()
    with torch.autocast("cpu", enabled=False):  # which would narrow it all again
        made = attend(query.float(), key.float(), value.float(), attn_mask, **named)
    return made.to(query.dtype)


def _is_slow(query: torch.Tensor, *others: torch.Tensor) -> bool:
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and others[0].shape[-2] <= FEW
        and any(one.requires_grad for one in (query, *others))
    )
