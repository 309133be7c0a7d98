"""A loop that trains one part of the model, and goes on after a stop where it was."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

Losses = dict[str, torch.Tensor]  # their sum is what falls


@dataclass(frozen=True)
class Plan:
    """How long one part is trained, and how."""

    steps: int
    batch: int
    learning_rate: float
    decay: float = 0.9995  # of the moving average, which is what is kept
    warmup: int = 300
    trained: bool = False  # whether it begins with trained weights, whose average is worth keeping
    save_every: int = 500
    until: float = math.inf  # by time.monotonic: after that it leaves, as if it were stopped

    def rate(self, step: int, time_left: float = 1.0) -> float:
        """The learning rate of that step: it rises, stays, and falls in the last quarter.

        The quarter is of the steps or, where they come to an end before, of the time.
        """
        rising, falling = (step + 1) / self.warmup, (self.steps - step) / (self.steps / 4)
        return self.learning_rate * min(1.0, rising, falling, max(0.0, 4 * time_left))


class Averaged:
    """Modules in bf16, the fp32 weights that the optimizer steps, and their moving average."""

    def __init__(self, modules: Sequence[nn.Module], plan: Plan):
        self.modules = modules
        self.plan = plan
        self.weights = [copy.deepcopy(module).float() for module in modules]
        self.average = [copy.deepcopy(module).float() for module in modules]
        for module in modules:
            module.bfloat16()
        self.optimizer = torch.optim.AdamW(
            _parameters(self.weights), betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )

    def step(self, number: int, time_left: float) -> None:
        """Step by the modules' gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(number, time_left)
        weights, working = _parameters(self.weights), _parameters(self.modules)
        for weight, copied in zip(weights, working, strict=True):
            weight.grad = None if copied.grad is None else copied.grad.float()
            copied.grad = None
        nn.utils.clip_grad_norm_(weights, 1.0)
        self.optimizer.step()
        # At first the average is of few steps, or a random start would stay in it for long.
        young = 1.0 if self.plan.trained else (1 + number) / (10 + number)
        keep = min(self.plan.decay, young)
        with torch.no_grad():
            torch._foreach_lerp_(_parameters(self.average), weights, 1 - keep)
            torch._foreach_copy_(working, weights)

    def halves(self) -> list[nn.Module]:
        """The average, as it is kept on disk."""
        return [copy.deepcopy(module).half() for module in self.average]

    def state(self) -> dict:
        """All that a later run needs."""
        return {
            "weights": [module.state_dict() for module in self.weights],
            "average": [module.state_dict() for module in self.average],
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict) -> None:
        """Go on from a state."""
        for name in ("weights", "average"):
            for module, values in zip(getattr(self, name), state[name], strict=True):
                module.load_state_dict(values)
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            torch._foreach_copy_(_parameters(self.modules), _parameters(self.weights))


def train(
    modules: Sequence[nn.Module],
    plan: Plan,
    losses_at: Callable[[int], Losses],
    state_file: Path,
    keep: Callable[[Sequence[Any]], None],
) -> float:
    """Lower the losses step by step, keep the averaged modules now and then.

    Returns the hours it took in all; none if there was no step left to take.
    """
    averaged = Averaged(modules, plan)
    start, before = _restore(averaged, state_file)
    if start >= plan.steps:
        keep(averaged.halves())  # which a crash right after the last step has cut off
        return 0.0
    seen: dict[str, float] = {}
    hours, begun = before, time.monotonic()
    # Without a limit all of the time is always left.
    time_in_all = plan.until - begun if plan.until < math.inf else 1.0
    bar = tqdm(
        range(start, plan.steps),
        initial=start,
        total=plan.steps,
        desc=state_file.stem,
        mininterval=5,
    )
    for step in bar:
        losses = losses_at(step)
        torch.stack(list(losses.values())).sum().backward()
        averaged.step(step, (plan.until - time.monotonic()) / time_in_all)
        for name, loss in losses.items():
            value = loss.item()
            seen[name] = seen.get(name, value) * 0.99 + value * 0.01
        bar.set_postfix({name: f"{value:.4f}" for name, value in seen.items()}, refresh=False)
        late = time.monotonic() > plan.until
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps or late:
            hours = before + (time.monotonic() - begun) / 3600
            _save(averaged, step + 1, hours, state_file)
            keep(averaged.halves())
        if late:
            break
    return hours


def _restore(averaged: Averaged, state_file: Path) -> tuple[int, float]:
    if not state_file.exists():
        return 0, 0.0
    device = next(averaged.modules[0].parameters()).device
    state = torch.load(state_file, map_location=device, weights_only=True)
    averaged.load(state)
    return int(state["step"]), float(state["hours"])


def _save(averaged: Averaged, step: int, hours: float, state_file: Path) -> None:
    state_file.parent.mkdir(parents=True, exist_ok=True)
    part = state_file.with_suffix(".part")
    torch.save({"step": step, "hours": hours, **averaged.state()}, part)
    part.replace(state_file)


def _parameters(modules: Sequence[nn.Module]) -> list[torch.Tensor]:
    return [parameter for module in modules for parameter in module.parameters()]
