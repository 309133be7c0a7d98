"""The entry point of generation: the images of a grid, each made once and kept at once."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import fmean

from detsd import __version__
from detsd.config import GridConfig, read
from detsd.console import duration
from detsd.imagestore import ImageStore, Record, open_store
from detsd.page import write_page
from detsd.png import encode
from detsd.sheets import show_sheets
from detsd.studio import Job, Studio, check_schedulers, list_jobs, open_studio
from detsd.trial import Trial, run_trial
from detsd.vocabulary import read_vocabularies

log = logging.getLogger(__name__)

BATCH = 16  # images between two looks at whether to stop, where the batch is as large as fits
PATIENCE = 300.0  # seconds between checkpoints, where save_freq does not say
Drawn = list[tuple[Record, bytes]]


def generate_grid(trial: Trial) -> None:
    """Make the trial's images that are not there yet."""
    config = read(GridConfig, trial.hparams)
    vocabularies = read_vocabularies(config)
    jobs = list_jobs(config, vocabularies, trial.slots)
    check_schedulers(config, jobs)
    with trial.restore() as checkpoint:
        known = (checkpoint.path, checkpoint.id) if checkpoint else (None, "")
        # The YAML of a point, as the earlier example has it, keeps its last checkpoint alone.
        whole = config.sweep is None
        store = open_store(trial.folder, *known, whole=whole) if trial.is_chief else None
    there = trial.ask(lambda: store.ids if store else set())
    missing = [job for job in jobs if job.id not in there]
    log.info("%d images, %d of them to be made", len(jobs), len(missing))
    keeper = Keeper(trial, store, len(jobs), len(jobs) - len(missing))
    if missing:
        studio = open_studio(config, vocabularies, trial.device)
        if not make(trial, studio, missing, config, keeper):
            log.info("stopped with images left to make: the next start makes them")
            return
    keeper.finish(is_new=bool(missing))
    log.info("all %d images are there: nothing is left to do", len(jobs))


def make(
    trial: Trial, studio: Studio, missing: Sequence[Job], config: GridConfig, keeper: "Keeper"
) -> bool:
    """Draw in rounds, a block a process in each; return whether all of them are made."""
    size = config.at_once or BATCH
    blocks = [missing[start : start + size] for start in range(0, len(missing), size)]
    mine = blocks[trial.rank :: trial.size]
    drawn = studio.draw([job for block in mine for job in block])
    rounds = -(-len(blocks) // trial.size)
    with ThreadPoolExecutor(1) as encoder:
        encoding: list[tuple[Record, Future[bytes]]] = []
        for number in range(rounds):
            count = len(mine[number]) if number < len(mine) else 0
            made = list(islice(drawn, count))
            # The last round's files were written while this one's images were drawn.
            keeper.keep(_finished(encoding))
            encoding = [(record, encoder.submit(encode, image, record)) for record, image in made]
            stopping = number + 1 < rounds and trial.should_stop()
            if stopping or keeper.due(number + 1, config.save_freq):
                keeper.keep(_finished(encoding))
                encoding = []
                keeper.save()
            if stopping:
                return False
        keeper.keep(_finished(encoding))
    return True


def _finished(encoding: Sequence[tuple[Record, Future[bytes]]]) -> Drawn:
    return [(record, png.result()) for record, png in encoding]


class Keeper:
    """Puts what all processes have made into the chief's store, and checkpoints of it."""

    def __init__(self, trial: Trial, store: ImageStore | None, target: int, done: int):
        self._trial = trial
        self._store = store  # the chief's
        self._target = target
        self._done = done
        self._begun = self._saved = time.monotonic()
        self._estimated = False

    def keep(self, drawn: Drawn) -> None:
        """Keep every process's images."""
        hands = self._trial.gather(drawn)
        kept = [one for hand in hands for one in hand]
        for record, png in kept:
            assert self._store is not None
            self._store.add(record, png)
        self._done += len(kept)
        if kept:
            self._trial.progress(self._done, self._target)
            self._estimate(kept)

    def due(self, rounds: int, every: int | None) -> bool:
        """Return whether it is time for a checkpoint, the same in every process."""
        if every is not None:
            return rounds % every == 0
        return self._trial.any(time.monotonic() - self._saved > PATIENCE)

    def save(self) -> None:
        """Keep what is new as a checkpoint."""
        store, trial = self._store, self._trial
        self._saved = time.monotonic()
        steps, unsaved = trial.ask(
            lambda: (len(store.ids), len(store.unsaved)) if store else (0, 0)
        )
        if not unsaved:
            return
        self._show(steps)

        def write(folder: Path) -> None:
            assert store is not None
            store.write_checkpoint(folder)

        id = trial.save(steps, write, {"version": __version__})
        if store is not None:
            store.saved(id)

    def finish(self, is_new: bool) -> None:
        """Keep the last ones, report what they score, and say where to look at them."""
        self.save()
        if self._store is not None:
            if is_new and (metrics := mean_metrics(self._store.records)):
                self._trial.report("validation", self._target, metrics)
            log.info("look at them: %s", self._write_page(self._store))

    def _show(self, step: int) -> None:
        if self._store is not None:
            self._write_page(self._store)
            show_sheets(self._trial, self._store, step)

    def _write_page(self, store: ImageStore) -> Path:
        return write_page(store.folder, store.folder.name)

    def _estimate(self, kept: Drawn) -> None:
        left = self._target - self._done
        if self._estimated or not left:
            return
        self._estimated = True
        seconds = (time.monotonic() - self._begun) / len(kept) * left
        size = sum(len(png) for _, png in kept) / len(kept) * self._target
        log.info("%d left: about %s; all will take %.1f MB", left, duration(seconds), size / 1e6)


def mean_metrics(records: Sequence[Record]) -> dict[str, float]:
    """Return the mean of each metric over the images that have it."""
    names = sorted({name for record in records for name in record["metrics"]})
    return {
        name: fmean(record["metrics"][name] for record in records if name in record["metrics"])
        for name in names
    }


def main() -> None:
    """Run as a process of a trial on a cluster."""
    run_trial(generate_grid)


if __name__ == "__main__":
    main()
