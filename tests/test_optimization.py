"""Learning rates by step, gradients summed, and an optimizer that goes on where it was."""

import copy
import io
import sys
from typing import Any

import pytest
import torch

from detsd import optimization
from detsd.config import ConfigError, TrainingConfig, read
from detsd.optimization import (
    build_optimizer,
    learning_rate_at,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
    sum_gradients,
)

Parameters = dict[str, torch.nn.Parameter]
KINDS = {
    "adam": ("adam", {}),
    "adam, amsgrad": ("adam", {"amsgrad": True, "betas": [0.5, 0.9]}),
    "adamw": ("adamw", {"weight_decay": 0.1}),
    "adamw, one kernel": ("adamw", {"weight_decay": 0.1, "fused": True}),
    "sgd": ("sgd", {}),
    "sgd, momentum": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "adamw8bit": ("adamw8bit", {"weight_decay": 0.1}),
}


def config(**keys: Any) -> TrainingConfig:
    return read(TrainingConfig, {"learning_rate": 0.5, "scale_lr": False, **keys})


def rate(step: int, num_steps: int = 10, **keys: Any) -> float:
    return learning_rate_at(config(**keys), step, 4, num_steps)


def parameters() -> Parameters:
    numbers = torch.Generator().manual_seed(0)
    shapes = {"first": (3, 4), "second": (2, 4), "unused": (1, 4)}
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=numbers))
        for name, shape in shapes.items()
    }


def optimizer_of(named: Parameters, **keys: Any) -> torch.optim.Optimizer:
    return build_optimizer(config(**keys), [{"params": list(named.items())}])


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_rate_is_whole_when_the_warm_up_ends(kind: str, warmup: int) -> None:
    assert rate(warmup, lr_scheduler=kind, warmup_steps=warmup) == 0.5


def test_the_rate_rises_evenly_while_warming_up() -> None:
    assert [rate(step, warmup_steps=4) for step in range(5)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5]
    )


@pytest.mark.parametrize(
    ("kind", "middle", "end"), [("constant", 0.5, 0.5), ("linear", 0.25, 0), ("cosine", 0.25, 0)]
)
def test_the_rate_ends_where_its_kind_says(kind: str, middle: float, end: float) -> None:
    assert rate(6, lr_scheduler=kind, warmup_steps=2) == pytest.approx(middle)
    assert rate(10, lr_scheduler=kind, warmup_steps=2) == pytest.approx(end)
    assert rate(9, lr_scheduler=kind, warmup_steps=2) > 0


def test_a_warm_up_longer_than_the_run_is_only_cut_off() -> None:
    assert [rate(step, 2, warmup_steps=4) for step in range(2)] == pytest.approx([0.1, 0.2])


def test_scale_lr_multiplies_by_the_effective_batch() -> None:
    assert rate(0, scale_lr=True) == 4 * rate(0)
    assert rate(9, scale_lr=True, lr_scheduler="cosine") == 4 * rate(9, lr_scheduler="cosine")


def test_a_group_with_a_learning_rate_of_its_own_keeps_it_through_the_schedule() -> None:
    named = list(parameters().items())
    groups = [{"params": named[:1]}, {"params": named[1:], "learning_rate": 0.1}]
    wanted = config(lr_scheduler="linear", scale_lr=True)
    optimizer = build_optimizer(wanted, groups)
    set_learning_rate(optimizer, lambda first: learning_rate_at(wanted, 5, 4, 10, first))
    found = [group["lr"] for group in optimizer.param_groups]
    assert found == pytest.approx([0.5 * 4 / 2, 0.1 * 4 / 2])


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("adam", {"betas": [2, 3]}),
        ("adam", {"betas": 0.9}),
        ("adamw", {"weight_decay": -1}),
        ("adam", {"eps": "tiny"}),
        ("sgd", {"momentum": -1}),
        ("sgd", {"nesterov": True}),
        # three betas are only found out by the first step.
        ("adam", {"betas": [0.9]}),
        ("adam", {"betas": [0.9, 0.99, 0.999]}),
        ("adam", {"foreach": True, "fused": True}),
    ],
    ids=str,
)
def test_bad_arguments_of_an_optimizer_are_a_config_error(kind: str, arguments: Any) -> None:
    with pytest.raises(ConfigError, match="other_optimizer_kwargs"):
        optimizer_of(parameters(), optimizer_name=kind, other_optimizer_kwargs=arguments)


def test_a_missing_gradient_counts_as_zeros() -> None:
    named = parameters()
    named["second"].grad = torch.full((2, 4), 3.0)
    norm = sum_gradients(optimizer_of(named), total=lambda flat: flat)
    assert norm.item() == pytest.approx((9 * 8) ** 0.5)
    assert torch.equal(named["first"].grad, torch.zeros(3, 4))
    assert torch.equal(named["second"].grad, torch.full((2, 4), 3.0))


def test_gradients_are_summed_in_as_few_goes_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    named = parameters()
    for number, parameter in enumerate(named.values()):
        parameter.grad = torch.full_like(parameter, number + 1)
    calls = []

    def total(flat: torch.Tensor) -> torch.Tensor:
        calls.append(flat.shape)
        return 2 * flat

    sum_gradients(optimizer_of(named), total)
    assert calls == [(24,)]
    monkeypatch.setattr(optimization, "BUCKET", 20)
    for number, parameter in enumerate(named.values()):
        parameter.grad = torch.full_like(parameter, number + 1)
    sum_gradients(optimizer_of(named), total)
    assert calls == [(24,), (20,), (4,)]
    assert all((p.grad == 2 * (n + 1)).all() for n, p in enumerate(named.values()))


@pytest.mark.parametrize("bucket", [100, 10])
@pytest.mark.parametrize(("size", "length"), [(4.0, 2.0), (0.5, 0.5 * 24**0.5), (0.0, 0.0)])
def test_a_long_gradient_is_shortened_and_a_short_one_left(
    size: float, length: float, bucket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimization, "BUCKET", bucket)
    named = parameters()
    for parameter in named.values():
        parameter.grad = torch.full_like(parameter, size)
    maximum = 2.0 if size == 4 else 3.0
    norm = sum_gradients(optimizer_of(named), lambda flat: flat, maximum)
    found = torch.cat([p.grad.flatten() for p in named.values()])
    assert norm.item() == pytest.approx(size * 24**0.5)
    assert found.norm().item() == pytest.approx(length, rel=1e-6)
    assert len(found.unique()) == 1


def run(named: Parameters, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad(set_to_none=True)
        ((named["first"] * (step + 1)).sin().sum() + (named["second"] ** 3).sum()).backward()
        sum_gradients(optimizer, lambda flat: flat)
        optimizer.step()


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def test_an_optimizer_that_is_not_installed_is_a_config_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match="adamw8bit needs bitsandbytes"):
        optimizer_of(parameters(), optimizer_name="adamw8bit")


@pytest.mark.parametrize("name", KINDS)
def test_an_optimizer_goes_on_bit_for_bit(name: str) -> None:
    kind, arguments = KINDS[name]
    keys = {"optimizer_name": kind, "other_optimizer_kwargs": arguments}
    straight = parameters()
    run(straight, optimizer_of(straight, **keys), range(6))

    stopped = parameters()
    first = optimizer_of(stopped, **keys)
    run(stopped, first, range(3))
    resumed = copy.deepcopy(dict(reversed(stopped.items())))  # found by name, not by place
    second = optimizer_of(resumed, **keys)
    load_optimizer_state(second, through_a_file(optimizer_state(first)))
    run(resumed, second, range(3, 6))
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_a_gpu_steps_in_one_go_and_goes_on_bit_for_bit(kind: str) -> None:
    def there(named: Parameters) -> Parameters:
        return {name: torch.nn.Parameter(value.detach().cuda()) for name, value in named.items()}

    straight = there(parameters())
    whole = optimizer_of(straight, optimizer_name=kind)
    assert all(group["fused"] for group in whole.param_groups)
    run(straight, whole, range(6))

    resumed = there(parameters())
    first = optimizer_of(resumed, optimizer_name=kind)
    run(resumed, first, range(3))
    second = optimizer_of(resumed, optimizer_name=kind)
    load_optimizer_state(second, through_a_file(optimizer_state(first)))
    run(resumed, second, range(3, 6))
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)


def test_the_state_matters_to_what_follows() -> None:
    straight, anew = parameters(), parameters()
    run(straight, optimizer_of(straight), range(6))
    run(anew, optimizer_of(anew), range(3))
    run(anew, optimizer_of(anew), range(3, 6))
    assert not torch.equal(anew["first"], straight["first"])


def test_a_state_of_another_shape_or_name_is_left_out() -> None:
    before = parameters()
    first = optimizer_of(before)
    run(before, first, range(2))
    state = optimizer_state(first)
    grown = {"first": torch.nn.Parameter(torch.zeros(5, 4)), "new": before["second"]}
    grown["second"] = torch.nn.Parameter(torch.zeros(2, 4))
    second = optimizer_of(grown)
    load_optimizer_state(second, state)
    assert set(optimizer_state(second)) == {"second"}
    assert torch.equal(second.state[grown["second"]]["exp_avg"], state["second"]["exp_avg"])
