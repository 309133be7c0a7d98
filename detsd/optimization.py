"""How what is learnt is stepped: optimizer, learning rate, gradients summed over the processes."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from detsd.config import ConfigError, TrainingConfig

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
BUCKET = 16_000_000  # numbers in one all-reduce: each takes that much memory besides the gradients


def build_optimizer(config: TrainingConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimizer that the config asks for; a group may have its own `learning_rate`."""
    kind = _kind(config.optimizer_name)
    arguments = _in_one_kernel(kind, groups, config.other_optimizer_kwargs)
    try:
        if "betas" in arguments and len(arguments["betas"]) != 2:
            raise ValueError(f"betas: two numbers are wanted, found {arguments['betas']}")
        return kind(groups, lr=config.learning_rate, **arguments)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ConfigError([f"training.other_optimizer_kwargs: {error}"]) from None


def _in_one_kernel(
    kind: Any, groups: list[dict[str, Any]], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments and, where they leave it open, what makes a GPU step in one go."""
    on_gpu = all(parameter.is_cuda for group in groups for _, parameter in group["params"])
    if not on_gpu or kind not in OPTIMIZERS.values() or {"foreach", "fused"} & arguments.keys():
        return arguments
    return {"fused": True, **arguments}


def _kind(name: str) -> Any:
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            [f"training.optimizer_name: {name} needs bitsandbytes, which is not there ({error})"]
        ) from None
    return AdamW8bit


def learning_rate_at(
    config: TrainingConfig,
    step: int,
    batch_size: int,
    num_steps: int,
    first: float | None = None,
) -> float:
    """Return the learning rate of a step: a function of it alone, so nothing needs saving.

    `first` is what the config's own is for those that have another.
    """
    rate = config.learning_rate if first is None else first
    rate *= batch_size if config.scale_lr else 1
    if step < config.warmup_steps:
        return rate * (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return rate * left[config.lr_scheduler]


def set_learning_rate(
    optimizer: torch.optim.Optimizer, rate_at: Callable[[float | None], float]
) -> None:
    """Give every group the learning rate that follows from its own, or from the config's."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(group.get("learning_rate"))


def sum_gradients(
    optimizer: torch.optim.Optimizer,
    total: Callable[[torch.Tensor], torch.Tensor],
    max_norm: float | None = None,
) -> torch.Tensor:
    """Replace each gradient by its sum over the processes, shortened if need be; return the norm.

    A process without a sample, or a parameter that no prompt named, has no gradient: zeros.
    """
    sums = [_sum_bucket(parameters, total) for parameters in _buckets(optimizer)]
    norms = torch.stack([flat.norm() for flat in sums])
    norm = norms[0] if len(norms) == 1 else norms.norm()
    if max_norm is not None:
        for flat in sums:
            flat *= (max_norm / norm).clamp(max=1)
    return norm


def _sum_bucket(
    parameters: list[torch.Tensor], total: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Sum the gradients in one go; return them all, as one tensor that each of them is part of."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = total(torch.cat([gradient.flatten() for gradient in gradients]))
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = part.view_as(parameter)
    return flat


def _buckets(optimizer: torch.optim.Optimizer) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    count = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if bucket and count + parameter.numel() > BUCKET:
                yield bucket
                bucket, count = [], 0
            bucket.append(parameter)
            count += parameter.numel()
    yield bucket


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of each parameter by its name; the settings are the config's."""
    return {name: optimizer.state[p] for name, p in _named(optimizer) if p in optimizer.state}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take the state of each parameter that has one in this shape."""
    for name, parameter in _named(optimizer):
        saved = state.get(name)
        if saved is not None and _fits(saved, parameter):
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if _goes_along(optimizer, value) else value
                for key, value in saved.items()
            }


def _fits(saved: Mapping[str, Any], parameter: torch.Tensor) -> bool:
    # What is kept in 8 bits has tensors of other shapes beside it.
    large = [value for value in saved.values() if _is_shaped(value) and value.dim() > 1]
    return all(value.shape == parameter.shape for value in large)


def _goes_along(optimizer: torch.optim.Optimizer, value: Any) -> bool:
    """Return whether the value is kept where its parameter is; a count of steps mostly is not."""
    counted_there = optimizer.defaults.get("fused") and isinstance(value, torch.Tensor)
    return counted_there or _is_shaped(value)


def _is_shaped(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    return [
        pair
        for group in optimizer.param_groups
        for pair in zip(group["param_names"], group["params"], strict=True)
    ]
