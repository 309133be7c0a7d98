"""The UNet's kernels, recorded as a CUDA graph: started again in one go, and not one by one."""

import gc
import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

log = logging.getLogger(__name__)

# Its activations stay where they were recorded: a step has micro-batches of one shape, and of
# another at most its last.
MOST = 1
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}  # what training computes in
Forward = Callable[..., torch.Tensor]


def record(unet: Any) -> None:
    """Let a frozen UNet be recorded when training first asks it; where there is no GPU, say so."""
    if unet.device.type != "cuda":
        log.warning("training.compile: graph is for a GPU; here it changes nothing")
        return
    unet.forward = Recorded(unet.forward)


def forget(unet: Any) -> None:
    """Let go of what a UNet has recorded, if it is one that is."""
    if isinstance(unet.forward, Recorded):
        unet.forward.forget()
        gc.collect()


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
        recorded = _recorded(plain, tensors)
        gc.collect()  # a recording that is not used is in a cycle with all its memory
        if recorded is not None:
            log.info("the UNet is recorded for %d samples at once", len(tensors[0]))
        return recorded or plain

    def forget(self) -> None:
        """Let go of what is recorded, and of the memory that is in it."""
        self._recordings.clear()


def _recorded(plain: Forward, tensors: tuple[torch.Tensor, ...]) -> Forward | None:
    """Return the recording, or None where it cannot be had or is not the same."""
    wanted = _through(plain, tensors)  # before there is a recording: both at once may be too much
    stream = torch.cuda.current_stream() if torch.cuda.is_available() else None
    try:
        with torch.cuda.stream(stream):  # to which a recording that fails does not come back
            recorded: Any = torch.cuda.make_graphed_callables(plain, _copies(tensors))
        found = _through(recorded, tensors)
    except torch.OutOfMemoryError:
        if len(tensors[0]) > 1:
            raise  # smaller pieces may fit, and be recorded then
        log.warning("the UNet recorded does not fit, and goes the usual way")
        return None
    except RuntimeError as error:
        log.warning("the UNet could not be recorded, and goes the usual way: %s", error)
        return None
    distances = [(a - b).norm() / b.norm() for a, b in zip(found, wanted, strict=True)]
    apart = torch.stack(distances).max().item()
    if not apart <= CLOSE[tensors[0].dtype]:
        log.warning("the UNet recorded is %.3g apart from itself: it goes the usual way", apart)
        return None
    return recorded


def _copies(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(one.detach().clone().requires_grad_(one.requires_grad) for one in tensors)


def _through(forward: Forward, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Return what comes out, forward and back."""
    copies = _copies(tensors)
    out = forward(*copies)
    learning = [copy for copy in copies if copy.requires_grad]
    way_back = torch.autograd.grad(out.float().square().sum(), learning)
    # Copied: what comes out of a recording lies where the next time's will.
    return [each.detach().float().clone() for each in (out, *way_back)]
