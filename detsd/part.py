"""A part of a model that is learnt: what the loss, the optimizer and a checkpoint know of it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from detsd.batches import Batch
from detsd.checkpoints import Export
from detsd.model import StableDiffusion
from detsd.text import Conditioning


class Distance(NamedTuple):
    """How far something has come from its start, and how little would be as good as nothing."""

    what: str
    share: float  # of the length that it had at its start
    least: float


def compute_in_half(module: nn.Module, device: torch.device) -> None:
    """Let the module compute in bf16, with what is learnt in full precision."""
    module.forward = torch.autocast(device.type, torch.bfloat16)(module.forward)


class Part:
    """Nothing learnt yet; each kind of part says what is different with it."""

    terms: tuple[str, ...] = ()
    """The losses of its own."""
    reads_prompts = False
    """Whether what the text encoders make of a prompt changes as it learns."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups for the optimizer, their parameters with names."""
        raise NotImplementedError

    def penalties(
        self, model: StableDiffusion, batch: Batch, conditioning: Conditioning
    ) -> dict[str, torch.Tensor]:
        """Return losses of its own: this batch's shares."""
        return {}

    def after_step(self, step: int) -> None:
        """Mend what a step may have broken."""

    def metrics(self) -> dict[str, float]:
        """Return what is worth watching besides the loss."""
        return {}

    def moved(self) -> Distance:
        """Return how far training has come from its start."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what is learnt, by name."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Take what is learnt from `state`; return the names that it lacks."""
        raise NotImplementedError

    def start_from(self, export: Export) -> set[str]:
        """Begin as another trial's export has it; return which of its fields were taken."""
        return set()

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write what generation and other tools read."""
        raise NotImplementedError

    def learning(self, slot: int) -> AbstractContextManager[None]:
        """Return a context for the losses of a batch that begins with this slot."""
        return nullcontext()

    def unlearnt(self) -> AbstractContextManager[None]:
        """Return a context in which the model is as it was before anything was learnt."""
        return nullcontext()

    def shown(self) -> AbstractContextManager[None]:
        """Return a context in which the model is as it is drawn with and exported."""
        return nullcontext()
