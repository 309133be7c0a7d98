"""Adapters in a model's modules: put in, weighed, switched off, and taken out as they are."""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from detsd.adapters import Adapter, AdapterError
from detsd.layers import Layer

Modules = Mapping[str, nn.Module]  # by the names that files have for them: unet, text_encoder, …
PREFIX = "text_model."  # of a text encoder's layers in files; not every one has it in transformers
SOME = 3  # layers that an error names


def inject(
    modules: Modules,
    name: str,
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    *,
    dora: Collection[str] = (),
    dropout: float = 0.0,
) -> dict[str, Any]:
    """Give layers, named as in an adapter, a change of some rank each; return them by name.

    A change counts alpha / rank times, and is DoRA's in the layers that are in `dora`. Its values
    are arbitrary, and nothing of it is learnt yet.
    """
    found: dict[str, Any] = {}
    for part, module in modules.items():
        # What each is called in its module, by what it is called in a file.
        places = {
            layer: _place(module, layer.removeprefix(f"{part}."))
            for layer in ranks
            if layer.startswith(f"{part}.")
        }
        learning = [value for value in module.parameters() if value.requires_grad]
        for apart in (False, True):  # peft takes all layers of a config for DoRA's, or none
            some = {layer: place for layer, place in places.items() if (layer in dora) == apart}
            if some:
                _inject(module, name, _config(some, ranks, alphas, apart, dropout))
        for value in learning:  # a concept's, which peft has taken for one of the model's own
            value.requires_grad_(True)
        found |= {layer: module.get_submodule(place) for layer, place in places.items()}
    for layer in found.values():
        layer.requires_grad_(False).train()  # for its dropout, if it has any: there is no other
    return found


def attach(modules: Modules, name: str, adapter: Adapter) -> None:
    """Put the adapter into the modules under a name, with a weight of 1."""
    check(modules, name, adapter)
    ranks = {layer: len(factors.down) for layer, factors in adapter.layers.items()}
    alphas = {layer: factors.alpha for layer, factors in adapter.layers.items()}
    dora = {layer for layer, factors in adapter.layers.items() if factors.magnitude is not None}
    for layer, place in inject(modules, name, ranks, alphas, dora=dora).items():
        put(place, name, adapter.layers[layer])


@torch.no_grad()
def put(place: Any, name: str, factors: Layer) -> None:
    """Give a layer's change these values."""
    down, up = place.lora_A[name].weight, place.lora_B[name].weight
    down.copy_(factors.down.view_as(down))
    up.copy_(factors.up.view_as(up))
    if factors.magnitude is not None:
        magnitude = place.lora_magnitude_vector[name].weight
        magnitude.copy_(factors.magnitude.view_as(magnitude))


def take(place: Any, name: str) -> Layer:
    """Return a layer's change as an adapter has it."""
    values = [side[name].weight for side in (place.lora_A, place.lora_B)]
    if name in place.lora_magnitude_vector:
        values.append(place.lora_magnitude_vector[name].weight.flatten())
    down, up, *magnitude = (value.detach().cpu().float().clone() for value in values)
    return Layer(down, up, place.lora_alpha[name], *magnitude)


def use(modules: Modules, weights: Sequence[tuple[str, float]]) -> None:
    """Let these adapters count, so much each, and no others; with a weight of 0 one is not there.

    Gradients are another matter: what is learnt has to be told so again.
    """
    active = [name for name, weight in weights if weight != 0]
    for layer in _layers(modules):
        for name, weight in weights:
            layer.set_scale(name, weight)
        layer.set_adapter(active, inference_mode=True)


@contextmanager
def switched_off(modules: Modules) -> Iterator[None]:
    """Let no adapter count for as long as the context lasts."""
    layers = list(_layers(modules))
    before = [list(layer.active_adapters) for layer in layers]
    # Set by hand: peft's own way asks for gradients, or refuses them, besides.
    for layer in layers:
        layer._active_adapter = []
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


def named_layers(part: str, module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """Return the layers of these kinds, named as in an adapter."""
    prefix = PREFIX if part != "unet" and not hasattr(module, PREFIX[:-1]) else ""
    return [
        f"{part}.{prefix}{name}" for name, one in module.named_modules() if isinstance(one, kinds)
    ]


def _config(
    places: Mapping[str, str],
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    dora: bool,
    dropout: float,
) -> Any:
    kinds = {(ranks[layer], alphas[layer]) for layer in places}
    rank, alpha = next(iter(kinds))
    one_kind = len(kinds) == 1  # peft looks each layer up in the patterns, which takes long
    return peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={} if one_kind else {places[layer]: ranks[layer] for layer in places},
        alpha_pattern={} if one_kind else {places[layer]: alphas[layer] for layer in places},
        target_modules=list(places.values()),
        use_dora=dora,
        lora_dropout=dropout,
    )


def _inject(module: nn.Module, name: str, config: Any) -> None:
    # It draws first values, which are replaced, and warns of a second adapter, which is meant.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        peft.inject_adapter_in_model(config, module, name)


def _place(module: nn.Module, layer: str) -> str:
    return layer if hasattr(module, layer.split(".")[0]) else layer.removeprefix(PREFIX)


def _weight(modules: Modules, layer: str) -> torch.Tensor | None:
    """Return what an adapter's layer would change, or None where there is no such thing."""
    part, _, rest = layer.partition(".")
    try:
        place: Any = modules[part].get_submodule(_place(modules[part], rest))
    except (KeyError, AttributeError):
        return None
    place = getattr(place, "base_layer", place)
    return place.weight if isinstance(place, (nn.Linear, nn.Conv2d)) else None


def _layers(modules: Modules) -> Iterator[Any]:
    for module in modules.values():
        yield from (one for one in module.modules() if isinstance(one, LoraLayer))


def check(modules: Modules, name: str, adapter: Adapter) -> None:
    """Refuse an adapter that was made for another model, before anything is changed."""
    unknown, misshapen = [], []
    for layer, factors in adapter.layers.items():
        weight = _weight(modules, layer)
        if weight is None:
            unknown.append(layer)
        elif (len(factors.up), factors.down[0].numel()) != (len(weight), weight[0].numel()):
            misshapen.append(
                f"{layer} ({len(factors.up)} × {factors.down[0].numel()} numbers, "
                f"here {len(weight)} × {weight[0].numel()})"
            )
    if wrong := unknown or misshapen:
        said = "changes layers that this model lacks" if unknown else "has other shapes than it"
        more = f" and {len(wrong) - SOME} more" if len(wrong) > SOME else ""
        raise AdapterError(
            f"{name} was made for another base model: it {said}: {', '.join(wrong[:SOME])}{more}"
        )
