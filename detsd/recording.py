"""The UNet's kernels, recorded as a CUDA graph: started again in one go, and not one by one."""

import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

log = logging.getLogger(__name__)

# Of each the activations stay where they were recorded: a step has micro-batches of one shape, and
# those of another only at its end, or after it has run out of memory.
MOST = 2
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
Forward = Callable[..., torch.Tensor]


def record(unet: Any) -> None:
    """Let a frozen UNet be recorded when training first asks it; where there is no GPU, say so."""
    if unet.device.type != "cuda":
        log.warning("training.compile: graph is for a GPU; here it changes nothing")
        return
    unet.forward = Recorded(unet.forward)


class Recorded:
    """A frozen UNet's forward, and its way back, for a training that asks it for the same shapes.

    What is asked for without gradients, or otherwise than by training, goes the usual way.
    """

    def __init__(self, forward: Callable[..., Any]):
        self._forward = forward
        self._recordings: dict[Any, Forward] = {}

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: Any,
        encoder_hidden_states: torch.Tensor,
        added_cond_kwargs: Mapping[str, torch.Tensor] | None = None,
        **others: Any,
    ) -> Any:
        """Return what the UNet's forward does."""
        if others or not encoder_hidden_states.requires_grad or not torch.is_grad_enabled():
            return self._forward(
                sample,
                timestep,
                encoder_hidden_states,
                added_cond_kwargs=added_cond_kwargs,
                **others,
            )
        added = added_cond_kwargs or {}
        tensors = (sample, timestep, encoder_hidden_states, *added.values())
        shapes = tuple((one.shape, one.dtype, one.requires_grad) for one in tensors)
        if shapes not in self._recordings:
            self._recordings[shapes] = self._record(tuple(added), tensors)
        return SimpleNamespace(sample=self._recordings[shapes](*tensors))

    def _record(self, names: tuple[str, ...], tensors: tuple[torch.Tensor, ...]) -> Forward:
        def plain(
            sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, *added: torch.Tensor
        ) -> torch.Tensor:
            about = dict(zip(names, added, strict=True)) or None
            made: torch.Tensor = self._forward(
                sample, timestep, states, added_cond_kwargs=about
            ).sample
            return made

        if len(self._recordings) >= MOST:
            return plain
        try:
            recorded: Any = torch.cuda.make_graphed_callables(plain, _copies(tensors))
            apart = _apart(recorded, plain, tensors)
        except torch.OutOfMemoryError:
            raise  # smaller pieces may fit, and be recorded then
        except RuntimeError as error:
            log.warning("the UNet could not be recorded, and goes the usual way: %s", error)
            return plain
        if not apart <= CLOSE[tensors[0].dtype]:
            log.warning("the UNet recorded is %.3g apart from itself: it goes the usual way", apart)
            return plain
        log.info("the UNet is recorded for %d samples at once", len(tensors[0]))
        return recorded


def _copies(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(one.detach().clone().requires_grad_(one.requires_grad) for one in tensors)


def _apart(one: Forward, other: Forward, tensors: tuple[torch.Tensor, ...]) -> float:
    """Return how far apart two are at most, forward and back, of what is to be the same."""
    made = []
    for forward in (one, other):
        copies = _copies(tensors)
        wanted = [copy for copy in copies if copy.requires_grad]
        out = forward(*copies)
        way_back = torch.autograd.grad(out.float().square().sum(), wanted)
        # Copied: what comes out of a recording lies where the next time's will.
        made.append([each.detach().float().clone() for each in (out, *way_back)])
    distances = [(a - b).norm() / b.norm() for a, b in zip(*made, strict=True)]
    return torch.stack(distances).max().item()
