"""A trial of a Determined experiment, by way of Determined's Core API."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import determined
from determined import core
from determined.common.api.errors import BadRequestException as MastersError

from detsd import console
from detsd.config import hub_variable, is_exposed
from detsd.preemption import EarlyPreemption, wait_out
from detsd.processes import Processes, open_processes
from detsd.reason import reason
from detsd.storage import METADATA, name_place, named, read_metadata
from detsd.trial import Checkpoint, Trial, TrialError, Write, max_length

log = logging.getLogger(__name__)

T = TypeVar("T")
MANY = 100  # checkpoints, where a user means all of them


class FailedUploads(logging.Filter):
    """Notes that files for TensorBoard did not arrive: Determined says so, and forgets them."""

    any = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        self.any |= "Tensorboard files failed" in record.getMessage()
        return True


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
        self._metric = config.get("searcher", {}).get("metric")
        storage = config.get("checkpoint_storage", {})
        self.checkpoints_stay = storage.get("save_trial_latest", 1) >= MANY
        self._place = name_place(storage)
        self._failed_uploads = FailedUploads()
        logging.getLogger("determined.tensorboard").addFilter(self._failed_uploads)
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
        restore_path = self._context.checkpoint.restore_path
        ranks = self._context.distributed
        with ExitStack() as stack:

            def fetch() -> Path:
                with named("read from", self._place):
                    # Shared by us: its own way has no process try again without the others.
                    mode = core.DownloadMode.NoSharedDownload
                    return stack.enter_context(restore_path(uuid, download_mode=mode))

            is_first_here = ranks.get_local_rank() == 0
            path = ranks.broadcast_local(self._wait_out(fetch) if is_first_here else None)
            own, self._first_step = self.ask(lambda: self._origin(path, uuid))
            yield Checkpoint(path, own, self._first_step, uuid)
            self.wait()  # what was downloaded is removed below, and others may be reading it

    def _origin(self, path: Path, uuid: str) -> tuple[bool, int]:
        """Return whether the checkpoint is this trial's own, and then of which step."""
        metadata = read_metadata(path / METADATA)
        if not metadata:
            raise TrialError(f"checkpoint {uuid} has no {METADATA} that says whose it is")
        # An id is the trial's own on one cluster only; the earlier example kept no cluster's.
        here = {"cluster_id": self._info.cluster_id, **metadata}
        own = all(here.get(key) == self._identity[key] for key in ("trial_id", "cluster_id"))
        return own, metadata.get("steps_completed", 0) if own else 0

    def report(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        """Report to the master, which TensorBoard's scalars follow."""
        if self.is_chief:
            if group == "validation":
                self._look_for_ranking(metrics)
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

    def wishes_to_stop(self) -> bool:
        """Return whether the master wants the slots back: the chief alone asks."""
        return self.is_chief and self._context.preempt.should_preempt(auto_ack=False)

    def heed(self) -> None:
        """Acknowledge: the master then takes what ends for paused, not for done."""
        if self.is_chief:
            self._context.preempt.should_preempt()

    def shown(self, name: str, step: int) -> bool:
        """Take it that an earlier attempt, whose files are not here, has shown its pictures."""
        return 0 < step <= self._first_step

    def tensorboard(self) -> Path:
        """Return the folder that Determined uploads."""
        return Path(self._context.train.get_tensorboard_path())

    def close(self) -> None:
        """Write out what is still held back; Determined uploads it as it closes."""
        super().close()
        self._upload_again()
        logging.getLogger("determined.tensorboard").removeFilter(self._failed_uploads)

    def _look_for_ranking(self, metrics: Mapping[str, float]) -> None:
        if self._metric not in (None, *metrics):
            reported = ", ".join(metrics)
            log.warning(
                "searcher.metric: %s is not measured, so no checkpoint is the best; this run "
                "reports %s",
                *(self._metric, reported),
            )
        self._metric = None  # once is enough

    def _save(self, step: int, write: Write, metadata: dict[str, Any]) -> str:
        self._upload_again()
        # Written elsewhere first: what is uploaded or copied is complete before it is named.
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))

            def upload() -> str:
                try:
                    with named("written to", self._place, apart=(MastersError,)):
                        about = {**metadata, **self._identity}
                        return self._context.checkpoint.upload(folder, about)
                except MastersError as error:
                    said = f"the master {self._info.master_url} was not told: {reason(error)}"
                    raise TrialError(said) from error

            return self._wait_out(upload)

    def _wait_out(self, work: Callable[[], T]) -> T:
        return wait_out(work, self._context.preempt if self.is_chief else None)

    def _upload_again(self) -> None:
        if self._failed_uploads.any:
            self._failed_uploads.any = False
            for path in sorted(self.tensorboard().rglob("*")):
                path.touch()  # what is newer than the last upload belongs to the next one


@contextmanager
def open_trial() -> Iterator[Trial]:
    """Join the trial that this process was started for on a cluster."""
    info = determined.get_cluster_info()
    if info is None or info.task_type != "TRIAL":
        raise TrialError(
            "no trial of a Determined cluster is going on here; without a cluster run "
            "`python -m detsd run FILE.yaml`"
        )
    if is_exposed(os.environ, info.trial._config.get("environment")):
        log.warning(
            "the hub's token is under environment_variables, which the log of each task and the "
            "Web UI show: move it to data.secrets.hf_token"
        )
    os.environ.update(hub_variable(info.user_data))
    with open_processes() as processes:
        several = core.DistributedContext.from_torch_distributed
        distributed = several() if processes.size > 1 else None

        def init() -> core.Context:
            # Alone, the chief can ask whether to stop while the others wait for it.
            mode = core.PreemptMode.ChiefOnly
            try:
                return core.init(distributed=distributed, preempt_mode=mode)
            # It asks a storage with an endpoint what it is. Of the master's errors only one, for
            # its certificate, is of this kind.
            except OSError as error:
                asked = getattr(error, "request", None)
                if getattr(asked, "url", "").startswith(info.master_url):
                    raise TrialError(f"the master {info.master_url}: {reason(error)}") from error
                place = name_place(info.trial._config["checkpoint_storage"])
                said = f"checkpoints cannot be kept in {place}: {reason(error)}"
                raise TrialError(said) from error

        # Determined's launcher has just used the storage: it is not misspelt.
        early = EarlyPreemption(info) if processes.is_chief else None
        opened = wait_out(init, early)
        if early:
            early.close()
        with opened as context, tempfile.TemporaryDirectory(prefix="detsd-") as folder:
            trial = ClusterTrial(processes, context, info, Path(folder))
            try:
                yield trial
            finally:
                trial.close()


def run_trial(work: Callable[[Trial], None]) -> None:
    """Do the work of an entry point as a process of a trial on a cluster."""
    console.speak(int(os.environ.get("RANK", 0)))
    console.hush_loading()
    at_once = console.errors_at_once(console.TIME_TO_CLOSE)
    with console.errors_in_a_line(), open_trial() as trial, at_once:
        work(trial)
