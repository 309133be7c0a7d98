"""A trial: Determined's Core API, or something that does the same: restore, report, save, stop."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import determined
import numpy as np
from determined import core
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from detsd import console
from detsd.processes import Processes, open_processes
from detsd.reason import reason
from detsd.storage import METADATA, read_metadata

log = logging.getLogger(__name__)

MANY = 100  # checkpoints, where a user means all of them
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

    def should_stop(self) -> bool:
        """Return whether to save and leave, the same in every process."""
        raise NotImplementedError

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
    def writer(self) -> SummaryWriter:
        """The chief's TensorBoard writer, which takes back what a killed attempt had written."""
        if self._writer is None:
            self._writer = SummaryWriter(self.tensorboard(), purge_step=self._first_step + 1)
        return self._writer

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


class ClusterTrial(Trial):
    """A trial of a Determined experiment."""

    folder_stays = False

    def __init__(
        self,
        processes: Processes,
        context: core.Context,
        info: determined.ClusterInfo,
        folder: Path,
    ):
        config = info.trial._config
        slots = config.get("resources", {}).get("slots_per_trial") or processes.size
        super().__init__(
            processes,
            info.trial.hparams,
            slots,
            max_length(config.get("searcher", {})),
            Path(context.train.get_tensorboard_path()) / "samples",
            folder,
        )
        self._context = context
        self._info = info
        storage = config.get("checkpoint_storage", {})
        self.checkpoints_stay = storage.get("save_trial_latest", 1) >= MANY
        self._identity = {
            "trial_id": info.trial.trial_id,
            "experiment_id": info.trial.experiment_id,
            "cluster_id": info.cluster_id,
        }

    @contextmanager
    def restore(self) -> Iterator[Checkpoint | None]:
        """Yield the trial's latest checkpoint, or the one that it is to continue from."""
        uuid = self._info.latest_checkpoint
        if uuid is None:
            yield None
            return
        with self._context.checkpoint.restore_path(uuid) as path:
            metadata = read_metadata(path / METADATA)
            # An id is the trial's own on one cluster only; the earlier example kept no cluster's.
            here = {"cluster_id": self._info.cluster_id, **metadata}
            own = all(here.get(key) == self._identity[key] for key in ("trial_id", "cluster_id"))
            self._first_step = metadata.get("steps_completed", 0) if own else 0
            yield Checkpoint(path, own, self._first_step, uuid)

    def report(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        """Report to the master, which TensorBoard's scalars follow."""
        if self.is_chief:
            train = self._context.train
            send = {
                "training": train.report_training_metrics,
                "validation": train.report_validation_metrics,
            }[group]
            send(steps_completed=step, metrics=dict(metrics))

    def progress(self, step: int, target: int) -> None:
        """Move the Web UI's bar."""
        if self.is_chief:
            self._context.train.report_progress(step / target)

    def should_stop(self) -> bool:
        """Ask for preemption; yes is acknowledged at once, so the caller has to leave."""
        return self._context.preempt.should_preempt()

    def shown(self, name: str, step: int) -> bool:
        """Take it that an earlier attempt, whose files are not here, has shown its pictures."""
        return 0 < step <= self._first_step

    def tensorboard(self) -> Path:
        """Return the folder that Determined uploads."""
        return Path(self._context.train.get_tensorboard_path())

    def _save(self, step: int, write: Write, metadata: dict[str, Any]) -> str:
        # Written elsewhere first: what is uploaded or copied is complete before it is named.
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            return self._context.checkpoint.upload(folder, {**metadata, **self._identity})


def max_length(searcher: Mapping[str, Any]) -> int | None:
    """Return the searcher's length in steps, if it has one."""
    length = searcher.get("max_length")
    batches = length.get("batches") if isinstance(length, Mapping) else length
    return int(batches) if batches else None


@contextmanager
def open_trial() -> Iterator[Trial]:
    """Join the trial that this process was started for on a cluster."""
    info = determined.get_cluster_info()
    if info is None or info.task_type != "TRIAL":
        raise TrialError(
            "no trial of a Determined cluster is going on here; without a cluster run "
            "`python -m detsd run FILE.yaml`"
        )
    with open_processes() as processes:
        several = core.DistributedContext.from_torch_distributed
        distributed = several() if processes.size > 1 else None
        with (
            core.init(distributed=distributed) as context,
            tempfile.TemporaryDirectory(prefix="detsd-") as folder,
        ):
            trial = ClusterTrial(processes, context, info, Path(folder))
            try:
                yield trial
            finally:
                trial.close()


def run_trial(work: Callable[[Trial], None]) -> None:
    """Do the work of an entry point as a process of a trial on a cluster."""
    console.speak(int(os.environ.get("RANK", 0)))
    console.hush_loading()
    with console.errors_in_a_line(), open_trial() as trial:
        work(trial)
