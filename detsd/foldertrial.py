"""A trial without a cluster: everything that it keeps lies in one folder."""

import json
import logging
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detsd.processes import Processes, open_processes
from detsd.retry import keep_trying
from detsd.runfolder import METRICS, identify, open_checkpoints, read_metrics
from detsd.storage import METADATA, Storage, write_whole
from detsd.trial import Checkpoint, Trial, Write, max_length

log = logging.getLogger(__name__)


class FolderTrial(Trial):
    """A trial in a run folder; a second one in the same folder goes on with the first."""

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        *,
        hparams: Mapping[str, Any],
        slots: int,
        searcher: Mapping[str, Any],
        checkpoints: Storage,
        trial_id: str,
        warm_start: str | None,
        is_last: bool,
    ):
        super().__init__(
            processes, hparams, slots, max_length(searcher), folder / "samples", folder
        )
        self.is_last = is_last
        self._folder = folder
        self._trial_id = trial_id
        self._checkpoints = checkpoints
        self._warm_start = warm_start
        self._bar: tqdm[Any] | None = None
        self._scalars: list[tuple[str, float, int]] = []  # that TensorBoard has not seen yet
        self._stopping = False
        self._before = signal.signal(signal.SIGTERM, self._stop)

    @contextmanager
    def restore(self) -> Iterator[Checkpoint | None]:
        """Yield the folder's latest checkpoint, or the one that it is to start from."""
        stored = self._checkpoints.list()
        if stored:
            self._first_step = stored[-1].metadata["steps_completed"]
            if self._warm_start is not None:
                log.info("--from is not used: this run goes on from a checkpoint of its own")
            with self._checkpoints.open(stored[-1].id) as path:
                self._take_back()
                yield Checkpoint(path, True, self._first_step, stored[-1].id)
        else:
            self._first_step = -1  # of step 0, too, nothing counts
            self._take_back()
            with self._open_warm_start() as path:
                yield Checkpoint(path, False, 0, "") if path else None

    def report(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append to metrics.jsonl, TensorBoard and the log."""
        if not self.is_chief:
            return
        line = {"step": step, "group": group, "metrics": dict(metrics), "time": time.time()}
        with (self._folder / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._scalars += [(f"{group}/{name}", value, step) for name, value in metrics.items()]
        if step > 0:  # TensorBoard takes a second to import, and the first step is waited for
            self._write_scalars()
        said = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info("step %d, %s: %s", step, group, said)

    def progress(self, step: int, target: int) -> None:
        """Move the bar of a terminal; a log has its lines."""
        if self.is_chief:
            if self._bar is None:
                self._bar = tqdm(total=target, initial=step, unit="step", disable=None)
            self._bar.update(step - self._bar.n)

    def wishes_to_stop(self) -> bool:
        """Return whether a signal came."""
        return self._stopping

    def shown(self, name: str, step: int) -> bool:
        """Look for the PNG."""
        return self._picture(name, step).is_file()

    def tensorboard(self) -> Path:
        """Return the folder to give to `tensorboard --logdir`."""
        return self._folder / "tensorboard"

    def close(self) -> None:
        """Close the bar and the writer; a signal is nothing to it any more."""
        if self._bar is not None:
            self._bar.close()
        self._write_scalars()
        super().close()
        signal.signal(signal.SIGTERM, self._before)

    def _save(self, step: int, write: Write, metadata: dict[str, Any]) -> str:
        with self._checkpoints.scratch() as part:
            write(part)
            text = json.dumps({**metadata, "trial_id": self._trial_id}, indent=2)
            (part / METADATA).write_text(text)
            id = keep_trying(
                lambda: self._checkpoints.put(f"step-{step:06d}", part), lambda: self._stopping
            )
        log.info("step %d: saved as checkpoint %s", step, id)
        return id

    def _write_scalars(self) -> None:
        for name, value, step in self._scalars:
            self.writer.add_scalar(name, value, step)
        self._scalars = []

    def _stop(self, *_: Any) -> None:
        self._stopping = True

    def _take_back(self) -> None:
        """Drop what was reported and shown past the checkpoint: those steps are done again."""
        if not self.is_chief:
            return
        path = self._folder / METRICS
        kept = [line for line in read_metrics(path) if line["step"] <= self._first_step]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        for pictures in self._pictures.glob("step-*"):
            if int(pictures.name.removeprefix("step-")) > self._first_step:
                shutil.rmtree(pictures)

    @contextmanager
    def _open_warm_start(self) -> Iterator[Path | None]:
        source = self._warm_start
        if source is None:
            yield None
        elif Path(source).exists():
            yield Path(source)
        else:
            with self._checkpoints.open(source) as path:
                yield path


@contextmanager
def open_folder_trial(
    folder: Path,
    *,
    hparams: Mapping[str, Any],
    slots: int,
    searcher: Mapping[str, Any],
    place: Mapping[str, Any],
    warm_start: str | None,
    rendezvous: str,
    is_last: bool = True,
) -> Iterator[Trial]:
    """Join the trial in this folder."""
    with open_processes(rendezvous) as processes:
        trial = FolderTrial(
            processes,
            folder,
            hparams=hparams,
            slots=slots,
            searcher=searcher,
            checkpoints=open_checkpoints(place, folder),
            trial_id=identify(folder),
            warm_start=warm_start,
            is_last=is_last,
        )
        try:
            yield trial
        finally:
            trial.close()
