"""All weights of the UNet, and perhaps the text encoders', as a part that is learnt."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detsd.checkpoints import Export
from detsd.config import ConfigError, FullConfig
from detsd.model import StableDiffusion
from detsd.part import Distance, Part, compute_in_half
from detsd.tokens import is_row

# Below this share of the weights' length a change is none.
HARDLY = 1e-6
SAMPLED = 4096  # numbers of each tensor that are kept, to see how far it has come


class LearntWeights(Part):
    """The weights, in full precision, however the model computes with them."""

    def __init__(
        self, config: FullConfig, model: StableDiffusion, *, half: bool, keeps_first: bool
    ):
        self._model = model
        self._text_rate = config.text_encoder_learning_rate
        self.reads_prompts = self._text_rate is not None
        self._modules = {
            part: module
            for part, module in model.modules.items()
            if part == "unet" or self.reads_prompts
        }
        self._first = copy.deepcopy(self._modules) if keeps_first else None
        for module in (self._first or {}).values() if half else ():
            for value in module.parameters():
                value.data = value.data.to(torch.bfloat16)
        for module in self._modules.values():
            module.requires_grad_(True)
            if half:
                compute_in_half(module, model.device)
        self._start = {
            name: value.detach().flatten()[:SAMPLED].clone() for name, value in self._named()
        }
        self._decay = config.ema_decay
        self._mean = {
            name: value.detach().clone() for name, value in self._named() if config.ema_decay
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the UNet's weights, and those of the text encoders at their own rate."""
        named = list(self._named())
        of_text = [pair for pair in named if not pair[0].startswith("unet.")]
        groups: list[dict[str, Any]] = [
            {"params": [pair for pair in named if pair[0].startswith("unet.")]}
        ]
        return groups + [{"params": of_text, "learning_rate": self._text_rate}] * bool(of_text)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the running mean towards the weights; a young one faster than an old one."""
        if self._decay is not None:
            decay = min(self._decay, (1 + step) / (10 + step))
            for name, value in self._named():
                self._mean[name].lerp_(value, 1 - decay)

    def moved(self) -> Distance:
        """Return the distance from the first weights as a share of their length, by a sample."""
        with self.shown():
            pairs = [
                (value.detach().flatten()[:SAMPLED], self._start[name])
                for name, value in self._named()
            ]
        distance = sum((now - start).square().sum() for now, start in pairs)
        share = float((distance / sum(start.square().sum() for _, start in pairs)) ** 0.5)
        return Distance("the weights", share, HARDLY)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights, their running mean, and a sample of what they were."""
        kinds = (("", dict(self._named())), ("@mean", self._mean), ("@start", self._start))
        return {
            f"{name}{kind}": value.detach().cpu().clone()
            for kind, values in kinds
            for name, value in values.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Take the weights that `state` has in this shape."""
        missing = []
        for name, value in self._named():
            if name not in state or state[name].shape != value.shape:
                missing.append(name)
                continue
            value.copy_(state[name])
            self._start[name].copy_(state[f"{name}@start"])
            if self._decay is not None:  # where it was switched on since, it begins here
                self._mean[name].copy_(state.get(f"{name}@mean", state[name]))
        return missing

    @torch.no_grad()
    def start_from(self, export: Export) -> set[str]:
        """Begin with the weights of another trial's model."""
        if export.model is None:
            return set()
        for part, module in self._model.modules.items():
            self._begin(part, module, type(module).from_pretrained(export.model / part))
        for name, value in self._named():
            self._start[name].copy_(value.flatten()[:SAMPLED])
            if self._decay is not None:
                self._mean[name].copy_(value)
        return {"model"}

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the whole model, in diffusers' layout; words have files of their own."""
        with self.shown():
            self._model.pipeline(concepts=False).save_pretrained(folder)

    def unlearnt(self) -> AbstractContextManager[None]:
        """Return a context in which the first weights compute, where they were kept."""
        assert self._first is not None, "only where it is said beforehand"
        return self._model.replaced(self._first)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the running mean in the weights' place, if there is one."""
        if self._decay is None:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _begin(self, part: str, module: nn.Module, other: nn.Module) -> None:
        own = {name: value for name, value in module.state_dict().items() if not is_row(name)}
        theirs = other.state_dict()
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in theirs.items()}:
            said = f"the checkpoint's {part} is that of another base model"
        elif part in self._modules:
            module.load_state_dict(theirs, strict=False)  # the rows of new words are none of it
            return
        elif all(torch.equal(value.cpu(), theirs[name]) for name, value in own.items()):
            return
        else:
            said = (
                f"the checkpoint's {part} has learnt, too: set text_encoder_learning_rate here, or "
                "name the checkpoint in model.pretrained_model_name_or_path"
            )
        raise ConfigError([f"method: {said}"])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self._named():
            value.data, self._mean[name] = self._mean[name], value.data

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for part, module in self._modules.items():
            for name, value in module.named_parameters():
                if not is_row(name):
                    yield f"{part}.{name}", value
