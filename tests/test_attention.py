"""Attention in half precision on a CPU: which of it computes in full, and that it comes closer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from detsd import attention, pretrained
from detsd.adapters import Adapter
from detsd.attachment import named_layers
from detsd.layers import Layer
from detsd.text import Conditioning

PROMPTS = ["a photo of a logo", "a cropped photo of the logo"]
SIDE = 16  # of latents
Load = Callable[..., Any]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, torch.dtype]]:
    """Return what attention there was: the tokens that look, those looked at, the precision."""
    noted: list[tuple[int, int, torch.dtype]] = []
    plain = F.scaled_dot_product_attention

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **rest: Any) -> Any:
        assert query.dtype == key.dtype == value.dtype
        noted.append((query.shape[2], key.shape[2], query.dtype))
        return plain(query, key, value, **rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    return noted


def predict(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a prediction, and its gradient at the encoded prompts' places."""
    draw = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, SIDE, SIDE, generator=draw)
    told = model.encode_prompts(PROMPTS)
    states = told.states.detach().requires_grad_()
    pooled = None if told.pooled is None else told.pooled.detach()
    origins = torch.tensor([[64, 64, 0, 0]] * 2)
    made = model.predict(noisy, torch.tensor([10, 900]), Conditioning(states, pooled), origins)
    made.float().square().sum().backward()
    return made.detach().float(), states.grad.float()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_few_tokens_are_attended_to_in_full_and_many_as_ever(load: Load, family, seen, monkeypatch):
    monkeypatch.setattr(attention, "FEW", 50)
    predict(load(family, precision="bf16"))
    full = {(looking, keys) for looking, keys, dtype in seen if dtype == torch.float32}
    half = {(looking, keys) for looking, keys, dtype in seen if dtype == torch.bfloat16}
    assert (77, 77) in full  # prompts
    assert any(keys == 77 and looking > 50 for looking, keys in full)  # a picture, at prompts
    assert half and all(keys > 50 for _, keys in half)  # a picture, at itself


def test_full_precision_is_as_it_was(load: Load, seen):
    model = load("sd1")
    predict(model)
    assert {dtype for *_, dtype in seen} == {torch.float32}
    assert not any(part._forward_hooks for part in model.unet.modules())


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_it_comes_as_close_as_half_precision_does(load: Load, family, monkeypatch):
    wanted = predict(load(family))
    found = predict(load(family, precision="bf16"))
    monkeypatch.setattr(pretrained, "attend_in_full", lambda module: None)
    without = predict(load(family, precision="bf16"))
    for exact, here, before in zip(wanted, found, without, strict=True):
        assert 0 < (here - exact).norm() < 1.2 * (before - exact).norm()
        assert not torch.equal(here, before)


def test_an_adapter_finds_its_layers_and_counts(load: Load):
    model = load("sd1", precision="bf16")
    before, _ = predict(model)
    names = named_layers("unet", model.unet, (torch.nn.Linear,))
    layers = {
        name: Layer(torch.ones(1, layer.in_features), 0.01 * torch.ones(layer.out_features, 1), 1.0)
        for name in names
        if "attn" in name
        for layer in [model.unet.get_submodule(name.removeprefix("unet."))]
    }
    model.add_adapter("style", Adapter(layers))
    assert not torch.equal(predict(model)[0], before)
    model.use_adapters([("style", 0.0)])
    assert torch.equal(predict(model)[0], before)
