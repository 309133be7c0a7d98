"""Attention in bf16 on a CPU: which of it computes in full, and that it stays as close."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0
from torch.utils._python_dispatch import TorchDispatchMode

from detsd import attention, pretrained
from detsd.adapters import Adapter
from detsd.attachment import inject, named_layers
from detsd.attention import attend_in_full
from detsd.layers import Layer
from detsd.part import compute_in_half
from detsd.text import Conditioning

PROMPTS = ["a photo of a logo", "a cropped photo of the logo"]
SIDE = 16  # of latents
CPU = torch.device("cpu")
Load = Callable[..., Any]
Seen = set[tuple[int, int, torch.dtype]]


class Kernels(TorchDispatchMode):
    """Notes the attention there is: tokens that look, those looked at, the precision."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Seen = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, given: Any = (), named: Any = None
    ) -> Any:
        name = str(function)
        if "scaled_dot_product" in name and "backward" not in name:
            query, key, value = given[:3]
            assert query.dtype == key.dtype == value.dtype
            self.seen.add((query.shape[2], key.shape[2], query.dtype))
        return function(*given, **(named or {}))


@contextmanager
def watched() -> Iterator[Seen]:
    with Kernels() as kernels:
        yield kernels.seen


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


def precisions(seen: Seen) -> set[torch.dtype]:
    return {dtype for *_, dtype in seen}


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(("few", "wanted"), [(3, set()), (64, {64}), (77, {64, 77})])
def test_few_tokens_are_attended_to_in_full_and_many_as_ever(
    load: Load, family, few, wanted, monkeypatch
):
    """A picture at itself, 64 of them and fewer where it is smaller, and at a prompt, 77."""
    model = load(family, precision="bf16")
    monkeypatch.setattr(attention, "FEW", few)
    with watched() as seen:
        predict(model)
    assert {keys for _, keys, dtype in seen if dtype == torch.float32} & {64, 77} == wanted
    assert precisions(seen) <= {torch.float32, torch.bfloat16}


def test_prompts_that_are_learnt_are_read_in_full(load: Load):
    model = load("sd1", precision="bf16")
    model.text.encoders[0].module.get_input_embeddings().weight.requires_grad_(True)
    with watched() as seen:
        model.encode_prompts(PROMPTS)
    assert seen == {(77, 77, torch.float32)}


@pytest.mark.parametrize(
    ("precision", "wanted"), [("fp32", torch.float32), ("fp16", torch.float16)]
)
def test_other_precisions_are_as_they_were(load: Load, precision, wanted):
    model = load("sd1", precision=precision)
    with watched() as seen:
        predict(model)
    assert precisions(seen) == {wanted}


def test_what_needs_no_way_back_is_as_it_was(load: Load):
    model = load("sd1", precision="bf16")
    with watched() as seen, torch.no_grad():
        told = model.encode_prompts(PROMPTS)
        model.predict(torch.ones(2, 4, SIDE, SIDE), torch.tensor([1, 2]), told, torch.ones(2, 4))
    assert seen
    assert precisions(seen) == {torch.bfloat16}


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_that_learns_attends_in_full(load: Load, dora):
    """As it does in a run, where what is frozen computes in bf16 and what is learnt is in fp32."""
    model = load("sd1", precision="bf16")
    names = [
        name for name in named_layers("unet", model.unet, (torch.nn.Linear,)) if "attn" in name
    ]
    kinds = dict.fromkeys(names, 2)
    layers = inject(model.modules, "style", kinds, kinds, dora=names if dora else ())
    for layer in layers.values():
        layer.lora_B["style"].weight.requires_grad_(True)
    compute_in_half(model.unet, CPU)
    with watched() as seen:
        predict(model)
    assert (64, 77, torch.float32) in seen
    assert (64, 77, torch.bfloat16) not in seen


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_it_is_about_as_close(load: Load, family, monkeypatch):
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
    layers = {
        name: Layer(torch.ones(1, layer.in_features), torch.ones(layer.out_features, 1) / 100, 1.0)
        for name in named_layers("unet", model.unet, (torch.nn.Linear,))
        if "attn" in name
        for layer in [model.unet.get_submodule(name.removeprefix("unet."))]
    }
    model.add_adapter("style", Adapter(layers))
    assert not torch.equal(predict(model)[0], before)
    model.use_adapters([("style", 0.0)])
    assert torch.equal(predict(model)[0], before)


def test_masks_fused_projections_and_copies_are_diffusers_own(load: Load):
    unet = load("sd1", precision="bf16").unet
    width = unet.config.cross_attention_dim
    states = torch.ones(1, 77, width, dtype=torch.bfloat16, requires_grad=True)
    noisy = torch.ones(1, 4, SIDE, SIDE, dtype=torch.bfloat16)
    mask = torch.tensor([[1] * 40 + [0] * 37])

    def made(module: Any) -> torch.Tensor:
        asked = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        return module(noisy, torch.tensor([9]), **asked).sample

    with watched() as seen:
        wanted = made(unet)
    assert (64, 77, torch.float32) in seen
    assert torch.equal(made(copy.deepcopy(unet)), wanted)
    unet.fuse_qkv_projections()
    assert any(isinstance(one, FusedAttnProcessor2_0) for one in unet.attn_processors.values())
    assert (made(unet) - wanted).norm() < 0.05 * wanted.norm()


def test_a_kind_of_attention_that_is_not_known_is_left_alone():
    class Another(Attention):
        pass

    module = torch.nn.Sequential(Another(8, heads=1), Attention(8, heads=1))
    attend_in_full(module)
    assert [type(part) for part in module] == [Another, attention.FullAttention]
