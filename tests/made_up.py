"""Things that could have been learnt: adapters with random changes, for the tiny models."""

import torch
from torch import nn

from detsd import attachment
from detsd.adapters import Adapter, Layer
from detsd.model import StableDiffusion

KINDS = (nn.Linear, nn.Conv2d)


def adapter(
    model: StableDiffusion, *, words: str = "attn", seed: int = 0, size: float = 0.5, rank: int = 2
) -> Adapter:
    """Return changes to those layers of the model in whose names `words` stand."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for part, module in model.modules.items():
        for name in attachment.named_layers(part, module, KINDS):
            if words in name:
                weight = weight_of(model, name)
                down = torch.randn(rank, *weight.shape[1:], generator=generator)
                up = torch.randn(len(weight), rank, *[1] * (weight.dim() - 2), generator=generator)
                scale = size * weight.float().std() / rank**0.5
                layers[name] = Layer(down, up * scale, 2.0 * rank)
    assert layers, words
    return Adapter(layers, {"family": model.family})


def weight_of(model: StableDiffusion, layer: str) -> torch.Tensor:
    """Return the weight that a layer of an adapter changes."""
    part, _, name = layer.partition(".")
    module = model.modules[part]
    if not hasattr(module, name.split(".")[0]):
        name = name.removeprefix(attachment.PREFIX)
    place = module.get_submodule(name)
    return getattr(place, "base_layer", place).weight


@torch.no_grad()
def merge(model: StableDiffusion, made: Adapter, scale: float) -> None:
    """Change the model's own weights as the adapter would."""
    for name, (down, up, alpha, _) in made.layers.items():
        weight = weight_of(model, name)
        change = up.flatten(1) @ down.flatten(1)
        weight += scale * alpha / len(down) * change.view_as(weight)
