"""An adapter as a part of the model that is learnt (LoRA): low-rank changes to some layers."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detsd import attachment
from detsd.adapters import FILE, Adapter, write_adapter
from detsd.checkpoints import Export
from detsd.config import ConfigError, LoraConfig
from detsd.data import stream
from detsd.model import StableDiffusion
from detsd.part import Distance, Part, compute_in_half

NAME = "learnt"
# Below this share of the weights' length a change is none.
HARDLY = 1e-5
ATTENTION = r"\.attn{}\.to_(q|k|v|out\.0)$"
UNET = {
    "attention": ATTENTION.format("[12]"),
    "self_attention": ATTENTION.format(1),
    "cross_attention": ATTENTION.format(2),
    "feed_forward": r"\.ff\.net\.(0\.proj|2)$",
    "projections": r"\.proj_(in|out)$",
    "convolutions": r"\.(conv1|conv2|conv_shortcut|conv)$",
}
TEXT = {
    "attention": r"\.self_attn\.(q|k|v|out)_proj$",
    "feed_forward": r"\.mlp\.fc[12]$",
}


class LearntAdapter(Part):
    """Low-rank changes, which begin as none."""

    def __init__(self, config: LoraConfig, seed: int, model: StableDiffusion, *, half: bool):
        self._modules = model.modules
        self._seed = seed
        self._drops = config.dropout > 0
        self._generators = [model.device] if model.device.type == "cuda" else []
        self._text_rate = config.text_encoder_learning_rate
        self.reads_prompts = self._text_rate is not None
        self._about = {"family": model.family}
        layers = [*_unet_layers(model, config.targets)]
        if self.reads_prompts:
            layers += _text_layers(model, config.targets)
        self._layers = attachment.inject(
            self._modules,
            NAME,
            dict.fromkeys(layers, config.rank),
            dict.fromkeys(layers, config.alpha or config.rank),
            dora=set(layers) if config.dora else (),
            dropout=config.dropout,
        )
        self._begin()
        changed = {name.partition(".")[0] for name in self._layers} if half else set()
        for part in sorted(changed):
            compute_in_half(self._modules[part], model.device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the UNet's changes, and those of the text encoders at their own rate."""
        named = list(self._named())
        of_text = [pair for pair in named if pair[0].startswith("text_encoder")]
        groups: list[dict[str, Any]] = [
            {"params": [pair for pair in named if not pair[0].startswith("text_encoder")]}
        ]
        return groups + [{"params": of_text, "learning_rate": self._text_rate}] * bool(of_text)

    @torch.no_grad()
    def moved(self) -> Distance:
        """Return the length of all changes as a share of that of the weights they change."""
        changes = weights = 0.0
        for place in self._layers.values():
            down, up = (side[NAME].weight for side in (place.lora_A, place.lora_B))
            # |up · down|² without the product, which is as large as the layer.
            across = down.flatten(1) @ down.flatten(1).T
            along = up.flatten(1).T @ up.flatten(1)
            changes += place.scaling[NAME] ** 2 * (across * along).sum().item()
            weights += place.base_layer.weight.float().square().sum().item()
        return Distance("the adapted layers", math.sqrt(max(0.0, changes) / weights), HARDLY)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the factors."""
        return {name: value.detach().cpu().clone() for name, value in self._named()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Take the factors that `state` has in this shape."""
        missing = []
        for name, value in self._named():
            if name in state and state[name].shape == value.shape:
                value.copy_(state[name])
            else:
                missing.append(name)
        return missing

    def start_from(self, export: Export) -> set[str]:
        """Begin with the changes of another trial's adapter; what is not in it begins as none."""
        if export.adapter is None:
            return set()
        attachment.check(self._modules, "the checkpoint's adapter", export.adapter)
        for name, factors in export.adapter.layers.items():
            place = self._layers.get(name)
            if place is None:
                raise _other(f"changes {name}, too", "targets and text_encoder_learning_rate")
            own = attachment.take(place, NAME)
            if own.rank != factors.rank:
                raise _other(f"has rank {factors.rank}", "rank")
            if (own.magnitude is None) != (factors.magnitude is None):
                raise _other("is of the other kind, with DoRA or without", "dora")
            # What counts is alpha / rank × up · down, and alpha may be another one here.
            up = factors.up * (factors.alpha / own.alpha)
            attachment.put(place, NAME, factors._replace(up=up))
        return {"adapter"}

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the adapter's file."""
        folder.mkdir(parents=True, exist_ok=True)
        layers = {name: attachment.take(place, NAME) for name, place in self._layers.items()}
        write_adapter(folder / FILE, Adapter(layers, {**about, **self._about}))

    @contextmanager
    def learning(self, slot: int) -> Iterator[None]:
        """Let dropout drop what the slot says."""
        # It knows the global generator alone, which nothing else draws from.
        with torch.random.fork_rng(self._generators, enabled=self._drops):
            if self._drops:
                torch.manual_seed(stream(self._seed, slot, "dropout").initial_seed())
            yield

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let nothing be dropped."""
        self._let_drop(False)
        try:
            yield
        finally:
            self._let_drop(True)

    def unlearnt(self) -> AbstractContextManager[None]:
        """Return a context in which nothing is changed."""
        return attachment.switched_off(self._modules)

    def _let_drop(self, drops: bool) -> None:
        for place in self._layers.values():
            place.lora_dropout[NAME].train(drops)

    def _begin(self) -> None:
        for name, place in self._layers.items():
            down, up = place.lora_A[NAME].weight, place.lora_B[NAME].weight
            first = torch.empty(down.shape)  # on the CPU: the same on every device
            generator = stream(self._seed, 0, f"first values of {name}")
            nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
            down.data, up.data = first.to(down.device), torch.zeros_like(up, dtype=torch.float32)
        for _, value in self._named():
            value.data = value.data.float()
            value.requires_grad_(True)

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, place in self._layers.items():
            yield f"{name}.down", place.lora_A[NAME].weight
            yield f"{name}.up", place.lora_B[NAME].weight
            if NAME in place.lora_magnitude_vector:
                yield f"{name}.magnitude", place.lora_magnitude_vector[NAME].weight


def _other(what: str, keys: str) -> ConfigError:
    return ConfigError([f"method: the checkpoint's adapter {what}: {keys} have to be as there"])


def _unet_layers(model: StableDiffusion, targets: Sequence[str]) -> list[str]:
    layers = attachment.named_layers("unet", model.unet, (nn.Linear, nn.Conv2d))
    found: dict[str, None] = {}
    for target in targets:
        block, _, kind = target.rpartition(".")
        # Its dot is looked at and not taken: a layer may follow the block at once.
        beginning = re.escape(f"unet.{block}") + r"(?=\.)" if block else ""
        # proj_in and proj_out are convolutions in some models, and projections in all of them.
        some = [name for name in layers if re.match(f"{beginning}.*{UNET[kind]}", name)]
        if not some:
            blocks = sorted({".".join(name.split(".")[1:3]) for name in layers if "blocks" in name})
            here = f"its blocks: {', '.join(blocks)}"
            raise ConfigError([f"method.targets: {target} is nowhere in this UNet; {here}"])
        found |= dict.fromkeys(some)
    return list(found)


def _text_layers(model: StableDiffusion, targets: Sequence[str]) -> list[str]:
    kinds = ["attention", *({"feed_forward"} & set(targets))]
    return [
        name
        for part, module in model.modules.items()
        if part != "unet"
        for name in attachment.named_layers(part, module, (nn.Linear,))
        if any(re.search(TEXT[kind], name) for kind in kinds)
    ]
