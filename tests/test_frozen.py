"""Layers that do not learn compute what they did, forward and back."""

import copy

import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import nn
from transformers.activations import QuickGELUActivation

from detsd import frozen
from detsd.frozen import FrozenConv2d, FrozenLinear, LightGEGLU, LightQuickGELU, lighten


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch):
    """Take the lighter way whatever the processor and the sizes are."""
    monkeypatch.setattr(frozen, "_has_better_product", lambda: True)
    monkeypatch.setattr(frozen, "LARGE", 1)
    monkeypatch.setattr(frozen, "MUCH", 1)


def layers(kind: str) -> nn.Module:
    torch.manual_seed(0)
    modules = {
        "linear": lambda: nn.Sequential(nn.Linear(32, 48), nn.Linear(48, 32, bias=False)),
        "convolution": lambda: nn.Sequential(
            nn.Conv2d(6, 32, 3, stride=2, padding=1), nn.Conv2d(32, 8, 1, bias=False)
        ),
        "quick gelu": QuickGELUActivation,
        "geglu": lambda: GEGLU(32, 48),
    }
    return modules[kind]().requires_grad_(False)


KINDS = {
    "linear": FrozenLinear,
    "convolution": FrozenConv2d,
    "quick gelu": LightQuickGELU,
    "geglu": LightGEGLU,
}


def through(module: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    given = torch.randn(2, 6, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    given.requires_grad_()
    made = module(given)
    made.square().sum().backward()
    return made.detach(), given.grad


def lightened(module: nn.Module) -> nn.Module:
    lighten(module)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_they_compute_the_same_and_give_the_same_gradient(kind):
    module = lightened(layers(kind))
    assert {type(part) for part in module.modules()} & set(KINDS.values())
    for found, wanted in zip(through(module), through(layers(kind)), strict=True):
        torch.testing.assert_close(found, wanted)
        assert kind == "linear" or torch.equal(found, wanted)
    with torch.no_grad():
        given = torch.randn(1, 6, 32, 32)
        torch.testing.assert_close(module(given), layers(kind)(given))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_come_out_each_time(kind):
    module = lightened(layers(kind))
    assert all(map(torch.equal, through(module), through(copy.deepcopy(module))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_left_as_it_was(kind, dtype):
    """Bit for bit, whether the weights are in it or the context computes in it."""
    module = layers(kind).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        wanted = through(module, dtype)
        assert all(map(torch.equal, through(lightened(module), dtype), wanted))


@pytest.mark.parametrize("kind", ["linear", "convolution", "geglu"])
def test_weights_that_learn_after_all_get_their_gradient(kind):
    module, plain = lightened(layers(kind)), layers(kind)
    for one in (module, plain):
        one.requires_grad_(True)
        through(one)
    for found, wanted in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("linear", 0), ("convolution", 0), ("quick gelu", 12_288), ("geglu", 36_864)],
)
def test_only_what_the_way_back_needs_is_kept(kind, numbers):
    module = lightened(layers(kind))
    weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(torch.ones(2, 6, 32, 32, requires_grad=True))
    assert sum(kept.values()) == numbers


def test_where_little_is_kept_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(frozen, "LARGE", 10_000)
    module = lightened(layers("linear"))
    assert [type(part) for part in module] == [nn.Linear, nn.Linear]


def test_it_is_a_linear_layer_of_the_usual_names():
    """What looks for layers to adapt finds these."""
    module = lightened(layers("linear"))
    assert isinstance(module[0], nn.Linear)
    assert list(module.state_dict()) == list(layers("linear").state_dict())
