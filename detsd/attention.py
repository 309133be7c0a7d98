"""Attention on a CPU in half precision: to few tokens it is quicker in full, above all back."""

from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from transformers.models.clip.modeling_clip import CLIPAttention

FEW = 512  # tokens: beyond these its kernel for half precision is the quicker one


def attend_in_full(module: nn.Module) -> None:
    """Let the module's attention compute in full precision where there are few tokens.

    Its projections stay in half: what they make is widened, and what is made of it narrowed again.
    """
    for part in module.modules():
        if isinstance(part, CLIPAttention):
            _widen((part.q_proj, part.k_proj, part.v_proj), part.out_proj, None)
        elif isinstance(part, Attention):
            # A prompt has few tokens, however many there are of the picture that looks at them.
            limit = None if part.is_cross_attention else FEW
            _widen((part.to_q, part.to_k, part.to_v), part.to_out[0], limit)


def _widen(into: tuple[nn.Module, ...], out: nn.Module, limit: int | None) -> None:
    for projection in into:
        projection.register_forward_hook(partial(_to_full, limit))
    out.register_forward_pre_hook(_to_half)


def _to_full(limit: int | None, module: Any, given: Any, made: torch.Tensor) -> torch.Tensor:
    return made.float() if limit is None or made.shape[1] <= limit else made


def _to_half(module: nn.Linear, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (given[0].to(module.weight.dtype), *given[1:])
