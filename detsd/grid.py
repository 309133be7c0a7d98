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
from detsd.cores import cores
from detsd.imagestore import ImageStore, Record, open_store
from detsd.jobs import Job, by_model, check_jobs, list_jobs, passes_by_model
from detsd.materials import read_stock
from detsd.page import write_page
from detsd.png import encode
from detsd.sheets import show_sheets
from detsd.studio import Studio, open_studio
from detsd.trial import Trial

log = logging.getLogger(__name__)

BATCH = 16  # images between two looks at whether to stop, where the batch is as large as fits
PATIENCE = 300.0  # seconds between checkpoints, where save_freq does not say
TITLE = "images"  # of a checkpoint's page
Drawn = list[tuple[Record, bytes]]


def generate_grid(trial: Trial) -> None:
    """Make the trial's images that are not there yet."""
    config = read(GridConfig, trial.hparams)
    stock = read_stock(config)
    jobs = list_jobs(config, stock, trial.slots)
    check_jobs(config, jobs)
    if trial.max_length is not None:
        # In batches of every slot, as the earlier example counted; `det e create --test` wants one.
        jobs = jobs[: trial.max_length * (config.at_once or 1) * trial.slots]
    keeper = open_keeper(trial, jobs)
    missing = by_model([job for job in jobs if job.id not in keeper.there])
    log.info("%d images, %d of them to be made", len(jobs), len(missing))
    if missing:
        if config.scorer_name_or_path is not None:
            keeper.say_what_has_no_scores()
        # Of all images, made before or not: what is drawn must not depend on where it went on.
        passes = {model: count / trial.size for model, count in passes_by_model(jobs).items()}
        studio = open_studio(config, stock, trial.device, keep=not trial.is_last, passes=passes)
        if trial.is_chief:
            studio.tokenize(missing)
        if not make(trial, studio, missing, config, keeper):
            log.info("stopped with images left to make: the next start makes them")
            return
    else:
        log.info("all %d images are there: nothing is left to do", len(jobs))
    keeper.finish()


def make(
    trial: Trial, studio: Studio, missing: Sequence[Job], config: GridConfig, keeper: "Keeper"
) -> bool:
    """Draw in rounds, a block a process in each; return whether all of them are made."""
    size = config.at_once or BATCH
    blocks = [missing[start : start + size] for start in range(0, len(missing), size)]
    mine = blocks[trial.rank :: trial.size]
    drawn = studio.draw([job for block in mine for job in block])
    rounds = -(-len(blocks) // trial.size)
    with ThreadPoolExecutor(encoders(trial.size)) as pool:
        encoding: list[tuple[Record, Future[bytes]]] = []
        for number in range(rounds):
            count = len(mine[number]) if number < len(mine) else 0
            made = list(islice(drawn, count))
            # The last round's files were written while this one's images were drawn.
            keeper.keep(_finished(encoding))
            encoding = [(record, pool.submit(encode, image, record)) for record, image in made]
            if number + 1 == rounds:
                break  # the last checkpoint is the one with what all images score
            stopping = trial.should_stop()
            if stopping or keeper.due(number + 1, config.save_freq):
                keeper.keep(_finished(encoding))
                encoding = []
                keeper.save()
            if stopping:
                return False
        keeper.keep(_finished(encoding))
    return True


def encoders(processes: int) -> int:
    """Return how many threads encode: the process's share of the CPUs. Zlib holds no lock."""
    return max(1, cores() // processes)


def _finished(encoding: Sequence[tuple[Record, Future[bytes]]]) -> Drawn:
    return [(record, png.result()) for record, png in encoding]


class Keeper:
    """Puts what all processes have made into the chief's store, and checkpoints of it."""

    def __init__(
        self, trial: Trial, store: ImageStore | None, jobs: Sequence[Job], saved: tuple[int, str]
    ):
        self._trial = trial
        self._store = store  # the chief's
        self._wanted = {job.id for job in jobs}
        self._step, self._checkpoint = saved
        self.there = trial.ask(lambda: store.ids & self._wanted if store else set())
        self._done = len(self.there)
        self._saved_at = time.monotonic()
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
            self._trial.progress(self._done, len(self._wanted))
            self._estimate(kept)

    def due(self, rounds: int, every: int | None) -> bool:
        """Return whether it is time for a checkpoint, the same in every process."""
        if every is not None:
            return rounds % every == 0
        return self._trial.any(time.monotonic() - self._saved_at > PATIENCE)

    def save(self, *, last: bool = False) -> None:
        """Keep what is new as a checkpoint; with the last one goes what all images score."""
        store, trial = self._store, self._trial
        self._saved_at = time.monotonic()
        new = trial.ask(lambda: len(store.unsaved) if store else 0)
        if not new:
            return
        # Not the number of images: some may have been thrown away, and made again.
        self._step += new
        if store is not None:
            write_page(store.folder, store.folder.name)
            show_sheets(trial, store, self._step)
            if last and (metrics := mean_metrics(self._records(store))):
                trial.report("validation", self._step, metrics)

        def write(folder: Path) -> None:
            assert store is not None
            store.write_checkpoint(folder)
            write_page(folder, TITLE)

        self._checkpoint = trial.save(self._step, write, {"version": __version__})
        if store is not None:
            store.saved(self._checkpoint)

    def finish(self) -> None:
        """Keep the last ones, and say where to look at them all."""
        self.save(last=True)
        if self._store is None:
            return
        folder = self._store.folder
        look = (
            write_page(folder, folder.name)
            if self._trial.folder_stays
            else f"python -m detsd gather {self._checkpoint} --out images"
        )
        log.info("to look at them: %s", look)

    def say_what_has_no_scores(self) -> None:
        """Warn of images that were drawn when no scorer was named."""
        records = self._records(self._store) if self._store else []
        if count := sum(not record["metrics"] for record in records):
            log.warning("%d images stay without scores: no scorer was named for them", count)

    def _records(self, store: ImageStore) -> list[Record]:
        return [record for record in store.records if record["id"] in self._wanted]

    def _estimate(self, kept: Drawn) -> None:
        left = len(self._wanted) - self._done
        if self._estimated or not left:
            return
        self._estimated = True
        seconds = fmean(record["seconds"] for record, _ in kept) * left / self._trial.size
        size = fmean(len(png) for _, png in kept) * len(self._wanted)
        log.info("%d left: about %s; all will take %.1f MB", left, duration(seconds), size / 1e6)


def open_keeper(trial: Trial, jobs: Sequence[Job]) -> Keeper:
    """Return what goes on from the images that the trial has."""
    with trial.restore() as checkpoint:
        # Another trial's images are that trial's, which may be deleted.
        own = checkpoint if checkpoint and checkpoint.own else None
        path, id = (own.path, own.id) if own else (None, "")
        store = None
        if trial.is_chief:
            store = open_store(trial.folder, path, id, whole=not trial.checkpoints_stay)
            store.arrange({job.id: job.wanted.cell for job in jobs})
    return Keeper(trial, store, jobs, (own.steps_completed if own else 0, id))


def mean_metrics(records: Sequence[Record]) -> dict[str, float]:
    """Return the mean of each metric over the images that have it."""
    names = sorted({name for record in records for name in record["metrics"]})
    return {
        name: fmean(record["metrics"][name] for record in records if name in record["metrics"])
        for name in names
    }


def main() -> None:
    """Run as a process of a trial on a cluster."""
    from detsd.clustertrial import run_trial  # and with it Determined, which no other run needs

    run_trial(generate_grid)


if __name__ == "__main__":
    main()
