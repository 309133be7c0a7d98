"""A trial, to what goes on in it: restore, report, show, save, stop; wherever that may be."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from detsd.hiding import hidden
from detsd.processes import Flag, Processes
from detsd.reason import reason

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Write = Callable[[Path], None]


class TrialError(RuntimeError):
    """A trial that cannot be opened as it was started."""


class Checkpoint(NamedTuple):
    """A checkpoint to start from; another trial's lends its concepts, not its step."""

    path: Path
    own: bool
    steps_completed: int
    id: str


class Trial(Processes):
    """What the loop knows of the place it runs in; every process calls, the chief acts."""

    is_last = True  # of this process: no other trial follows in it
    folder_stays = True  # when the trial is over
    checkpoints_stay = True  # when the experiment is over: all of them, and not the last alone

    def __init__(
        self,
        processes: Processes,
        hparams: Mapping[str, Any],
        slots: int,
        max_length: int | None,
        pictures: Path,
        folder: Path,
    ):
        super().__init__(processes.rank, processes.size, processes.device)
        self.folder = folder  # on this machine, for what the chief makes
        self.hparams = hparams
        self.slots = slots
        self.max_length = max_length
        self._pictures = pictures
        self._writer: SummaryWriter | None = None
        self._heard: Flag | None = None  # in this step
        self._heard_before: Flag | None = None
        self._first_step = 0

    def restore(self) -> Any:
        """Return a context of the Checkpoint to start from, or of None."""
        raise NotImplementedError

    def report(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a step; `group` is training or validation."""
        raise NotImplementedError

    def progress(self, step: int, target: int) -> None:
        """Show how far the run has come."""
        raise NotImplementedError

    def wishes_to_stop(self) -> bool:
        """Return whether this process was asked to save and leave."""
        raise NotImplementedError

    def heed(self) -> None:
        """Say that the request to stop was heard: what called it leaves."""

    def should_stop(self) -> bool:
        """Return whether to save and leave, the same in every process."""
        return self._heeded(self.any(self.wishes_to_stop()))

    def total_of_step(self, gradients: torch.Tensor) -> torch.Tensor:
        """Return the sum over the processes, and hear with it whether any is to stop."""
        if self.size == 1 or self._heard is not None:  # with the step's first gradients
            return self.total(gradients)
        sums, self._heard = self.total_and_flag(gradients, self.wishes_to_stop())
        return sums

    def should_stop_after_step(self) -> bool:
        """Return what `total_of_step` heard: as `should_stop`, without another exchange."""
        if self.size == 1:
            return self.should_stop()
        # What comes from a device is read a step later, when nobody has to wait for it.
        flag = self._heard_before if self.device.type == "cuda" else self._heard
        self._heard_before, self._heard = self._heard, None
        return self._heeded(flag is not None and flag.read())

    def shown(self, name: str, step: int) -> bool:
        """Return whether the picture was shown before this process started."""
        raise NotImplementedError

    def save(self, step: int, write: Write, about: Mapping[str, Any]) -> str:
        """Keep what `write` writes into a folder as one whole checkpoint; tell the chief its id."""
        id = ""
        if self.is_chief:
            try:
                id = self._save(step, write, {"steps_completed": step, **about})
            # A full disk, a bucket that is gone: it looks different in every library.
            except Exception as error:
                raise TrialError(
                    f"step {step} could not be saved: {reason(error)}; "
                    "the checkpoint before it stands"
                ) from error
        self.wait()
        return id

    def show(self, name: str, image: Image.Image, step: int) -> None:
        """Show a picture in TensorBoard, and keep it as a PNG."""
        if self.is_chief:
            path = self._picture(name, step)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            image.save(part, "PNG")
            part.replace(path)
            self.writer.add_image(f"samples/{name}", np.asarray(image), step, dataformats="HWC")
            self.writer.flush()

    @property
    def writer(self) -> "SummaryWriter":
        """The chief's TensorBoard writer, which takes back what a killed attempt had written."""
        if self._writer is None:
            # Takes a while to import, and the chief alone has one. It writes to a folder: boto3
            # would come along for S3.
            with hidden("boto3"):
                from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.tensorboard(), purge_step=self._first_step + 1)
        return self._writer

    def _heeded(self, stop: bool) -> bool:
        if stop:
            self.heed()
        return stop

    def tensorboard(self) -> Path:
        """Return the folder that TensorBoard reads."""
        raise NotImplementedError

    def close(self) -> None:
        """Write out what is still held back."""
        if self._writer is not None:
            self._writer.close()

    def _picture(self, name: str, step: int) -> Path:
        return self._pictures / f"step-{step:06d}" / f"{name}.png"

    def _save(self, step: int, write: Write, metadata: dict[str, Any]) -> str:
        raise NotImplementedError


def max_length(searcher: Mapping[str, Any]) -> int | None:
    """Return the searcher's length in steps, if it has one."""
    length = searcher.get("max_length")
    batches = length.get("batches") if isinstance(length, Mapping) else length
    return int(batches) if batches else None
