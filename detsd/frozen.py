"""Frozen layers and activations on a CPU: they compute what they did, sooner, and keep less."""

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from transformers.activations import QuickGELUActivation

from detsd.arithmetic import processor

LARGE = 500_000  # weights: with fewer, the detour to another product takes as long as it saves
MUCH = 100_000  # numbers: with fewer, it is not worth a detour that they are not kept


def lighten(module: nn.Module) -> None:
    """Let the module's layers compute so for as long as they do not learn; they stay its own."""
    large = LARGE if _has_better_product() else None
    for part in module.modules():
        if type(part) is nn.Linear and large is not None and part.weight.numel() >= large:
            part.__class__ = FrozenLinear
        elif type(part) in LIGHTER:
            part.__class__ = LIGHTER[type(part)]


class FrozenLinear(nn.Linear):
    """A linear layer by oneDNN's product."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the product; by the usual one where the weights learn, or in half precision."""
        if _learns(self) or not _is_plain(input):
            return super().forward(input)
        rows = input.reshape(input.shape[:-1].numel(), self.in_features)
        made: torch.Tensor = _Product.apply(rows, self.weight, self.bias)
        return made.view(*input.shape[:-1], self.out_features)


class FrozenConv2d(nn.Conv2d):
    """A convolution, which needs of its input nothing but the shape for the way back."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution; the usual one keeps its input, as if the weights learnt."""
        if not _learns(self) and _is_plain(input) and self._is_pointwise(input):
            return self._by_products(input)
        pads_plainly = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if _learns(self) or not _is_much(input) or not pads_plainly:
            return super().forward(input)
        how = self.stride, self.padding, self.dilation, self.groups
        made: torch.Tensor = _Convolution.apply(input, self.weight, self.bias, how)
        return made

    def _is_pointwise(self, input: torch.Tensor) -> bool:
        return (
            self.kernel_size == (1, 1)
            and self.stride == (1, 1)
            and self.padding == (0, 0)
            and self.groups == 1
            and input.dim() == 4
        )

    def _by_products(self, input: torch.Tensor) -> torch.Tensor:
        """Return what a matrix makes of each pixel, which several threads are quicker with."""
        count, _, *shape = input.shape
        matrix = self.weight.flatten(1).expand(count, -1, -1)
        bias = self.weight.new_zeros(1) if self.bias is None else self.bias
        made = torch.baddbmm(bias[:, None], matrix, input.flatten(2))
        return made.view(count, self.out_channels, *shape)


class LightQuickGELU(QuickGELUActivation):
    """CLIP's activation, x · sigmoid(1.702 x), which keeps nothing but x."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the activations."""
        made: torch.Tensor = _QuickGELU.apply(input) if _is_much(input) else super().forward(input)
        return made


class LightGEGLU(GEGLU):
    """The UNet's activation, a · gelu(b), which keeps nothing but a and b."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the activations of the layer's projection."""
        if not _is_much(hidden_states, widened=self.proj.out_features / self.proj.in_features):
            made: torch.Tensor = super().forward(hidden_states)
        else:
            made = _GEGLU.apply(self.proj(hidden_states))
        return made


LIGHTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: FrozenConv2d,
    QuickGELUActivation: LightQuickGELU,
    GEGLU: LightGEGLU,
}


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return _product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return _product(gradient, weight.t(), None), None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, how: Any
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.how = input.shape, how
        return F.conv2d(input, weight, bias, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return conv2d_input(ctx.shape, weight, gradient, *ctx.how), None, None, None


class _QuickGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(input)
        return torch.sigmoid_(1.702 * input).mul_(input)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (input,) = ctx.saved_tensors
        # It is silu(1.702 x) / 1.702, whose slope torch has in one pass.
        return torch.ops.aten.silu_backward(gradient, 1.702 * input)


class _GEGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(projected)
        hidden, gate = projected.chunk(2, dim=-1)
        return F.gelu(gate).mul_(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (projected,) = ctx.saved_tensors
        hidden, gate = projected.chunk(2, dim=-1)
        of_both = torch.empty_like(projected)
        of_hidden, of_gate = of_both.chunk(2, dim=-1)
        of_hidden.copy_(F.gelu(gate).mul_(gradient))
        of_gate.copy_(torch.ops.aten.gelu_backward(gradient * hidden, gate))
        return of_both


def _product(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return what F.linear does, by an operator of torch's compiler: it has no public name."""
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def _learns(layer: nn.Linear | nn.Conv2d) -> bool:
    return layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)


def _is_plain(input: torch.Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and input.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _is_much(input: torch.Tensor, widened: float = 1) -> bool:
    return input.numel() * widened >= MUCH and torch.is_grad_enabled() and _is_plain(input)


def _has_better_product() -> bool:
    """Return whether oneDNN's is the faster one: MKL's is made for Intel's processors."""
    return (
        bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and any("AMD" in line for line in processor())
    )
