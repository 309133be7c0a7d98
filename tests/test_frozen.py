"""Layers that do not learn compute what they did, forward and back."""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import nn
from transformers.activations import QuickGELUActivation

from detsd import frozen, pretrained
from detsd.frozen import FrozenConv2d, FrozenLinear, LightGEGLU, LightQuickGELU, lighten
from tests.trials import LORA, changed, run


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
            nn.Conv2d(6, 32, 3, stride=2, padding=1), nn.Conv2d(32, 8, 3, bias=False)
        ),
        "pointwise": lambda: nn.Sequential(nn.Conv2d(6, 32, 1), nn.Conv2d(32, 8, 1, bias=False)),
        "quick gelu": QuickGELUActivation,
        "geglu": lambda: GEGLU(32, 48),
    }
    return modules[kind]().requires_grad_(False)


KINDS = {
    "linear": FrozenLinear,
    "convolution": FrozenConv2d,
    "pointwise": FrozenConv2d,
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


EXACT = {"convolution", "geglu"}  # the others take other operators: other last bits


@pytest.mark.parametrize("kind", KINDS)
def test_they_compute_the_same_and_give_the_same_gradient(kind):
    module = lightened(layers(kind))
    assert {type(part) for part in module.modules()} & set(KINDS.values())
    for found, wanted in zip(through(module), through(layers(kind)), strict=True):
        torch.testing.assert_close(found, wanted)
        assert torch.equal(found, wanted) or kind not in EXACT
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


@pytest.mark.parametrize("kind", ["linear", "convolution", "pointwise", "geglu"])
def test_weights_that_learn_after_all_get_their_gradient(kind):
    module, plain = lightened(layers(kind)), layers(kind)
    for one in (module, plain):
        one.requires_grad_(True)
        through(one)
    for found, wanted in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        *(("linear", 0), ("convolution", 0), ("pointwise", 0)),
        *(("quick gelu", 12_288), ("geglu", 36_864)),
    ],
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


def test_small_layers_have_the_usual_product(monkeypatch):
    monkeypatch.setattr(frozen, "LARGE", 10_000)
    module = lightened(layers("linear"))
    assert [type(part) for part in module] == [nn.Linear, nn.Linear]


@pytest.mark.parametrize(
    ("capability", "told", "better"),
    [
        ("AVX512", ["model name : AMD EPYC"], True),
        ("AVX2", ["model name : AMD EPYC"], False),
        ("AVX512", ["model name : Intel(R) Xeon(R)"], False),
        ("DEFAULT", [], False),
    ],
)
def test_another_product_is_taken_where_it_was_seen_to_be_better(
    monkeypatch, capability, told, better
):
    monkeypatch.undo()  # of what is taken everywhere else here
    monkeypatch.setattr(frozen, "processor", lambda: told)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert frozen._has_better_product() == better


@pytest.mark.parametrize("kind", ["convolution", "quick gelu", "geglu"])
def test_little_that_is_kept_and_what_is_for_no_way_back_go_the_usual_way(kind, monkeypatch):
    taken = []
    for function in (frozen._Convolution, frozen._QuickGELU, frozen._GEGLU):
        monkeypatch.setattr(function, "apply", lambda *given: taken.append(given) or given[0])
    module, given = lightened(layers(kind)), torch.randn(1, 6, 32, 32)
    with torch.no_grad():
        module(given)
    monkeypatch.setattr(frozen, "MUCH", 1_000_000)
    module(given.requires_grad_())
    assert not taken


@pytest.mark.parametrize(
    "other", [{"padding_mode": "circular"}, {"padding": "same"}, {"padding": "valid"}]
)
def test_a_convolution_that_pads_otherwise_is_left_as_it_was(other):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 8, 3, **{"padding": 1, **other}).requires_grad_(False)
    module = lightened(nn.Sequential(copy.deepcopy(plain)))
    assert all(map(torch.equal, through(module), through(plain)))


def test_a_matrix_for_each_pixel_is_taken_where_it_is_the_same_thing(monkeypatch):
    taken = []
    monkeypatch.setattr(FrozenConv2d, "_by_products", lambda *given: taken.append(given))
    given = torch.randn(1, 8, 4, 4)
    others = ({"stride": 2}, {"padding": 1}, {"groups": 2}, {"padding": "same"})
    for other in others:
        lightened(nn.Sequential(nn.Conv2d(8, 8, 1, **other).requires_grad_(False)))(given)
    assert not taken
    module = lightened(nn.Sequential(nn.Conv2d(8, 8, 1).requires_grad_(False)))
    module(given[0])  # a picture without a batch
    assert not taken
    module(given)
    assert taken


def test_a_small_gate_is_told_by_what_it_is_widened_to(monkeypatch):
    """GEGLU's input is an eighth of what it would keep."""
    taken = []
    monkeypatch.setattr(frozen._GEGLU, "apply", lambda *given: taken.append(given))
    monkeypatch.setattr(frozen, "MUCH", 32 * 96)
    module, given = lightened(layers("geglu")), torch.randn(32, 32, requires_grad=True)
    module(given[:31])
    assert not taken
    module(given)
    assert taken


def test_a_matrix_for_no_pixel_makes_none():
    module = lightened(layers("pointwise"))
    assert module(torch.ones(0, 6, 4, 4)).shape == (0, 8, 4, 4)


@pytest.mark.parametrize("shape", [(32,), (2, 32), (2, 3, 32), (0, 3, 32)])
def test_any_rows_may_be_many_few_or_changed_in_place(shape):
    module, given = lightened(layers("linear")), torch.randn(shape, requires_grad=True)
    made = module(given)
    torch.testing.assert_close(made, layers("linear")(given))
    made += 1
    made.sum().backward()
    assert given.grad.shape == shape


@pytest.mark.parametrize("kind", ["linear", "convolution", "pointwise"])
def test_a_bias_that_learns_alone_gets_its_gradient(kind):
    module, plain = lightened(layers(kind)), layers(kind)
    for one in (module, plain):
        one[0].bias.requires_grad_(True)
        through(one)
    torch.testing.assert_close(module[0].bias.grad, plain[0].bias.grad)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"pointwise"}))
def test_a_gradients_gradient_is_refused(kind):
    given = torch.randn(2, 6, 32, 32, requires_grad=True)
    made = lightened(layers(kind))(given).square().sum()
    (gradient,) = torch.autograd.grad(made, given, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("method", [{"kind": "textual_inversion"}, LORA, {"kind": "full"}])
def test_a_step_has_the_loss_that_it_has_without(tmp_path, hparams, method, monkeypatch):
    hparams["method"] = method
    hparams = changed(hparams, training__num_sgd_steps=2)
    other = reported(run(tmp_path / "other", hparams))
    monkeypatch.setattr(pretrained, "lighten", lambda module: None)
    plain = reported(run(tmp_path / "plain", hparams))
    assert other["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert other["gradient_norm"] == pytest.approx(plain["gradient_norm"], rel=1e-3)


def reported(folder: Path) -> dict[str, float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    (metrics,) = (line["metrics"] for line in lines if line["group"] == "training")
    return metrics


def test_it_is_a_linear_layer_of_the_usual_names():
    """What looks for layers to adapt finds these."""
    module = lightened(layers("linear"))
    assert isinstance(module[0], nn.Linear)
    assert list(module.state_dict()) == list(layers("linear").state_dict())
