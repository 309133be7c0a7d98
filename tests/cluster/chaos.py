"""Minutes of trouble for a training and a grid. This file knows what happens to them, and when.

python -m tests.cluster.chaos --minutes 30 --seed 1
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from detsd import console
from tests.cluster.cluster import Cluster, open_cluster
from tests.cluster.jobs import Grid, Job, Training
from tests.cluster.records import COMPLETED
from tests.cluster.subject import Subject
from tests.tiny_model import build

ACTS = {  # and how often
    **{"pause": 4, "preempt": 2, "kill a rank": 4, "kill the launcher": 4, "kill S3": 4},
    "stop": 1,
}
TAKEN_BACK = ("activate", "start S3", "continue")
BETWEEN = (2.0, 14.0)  # seconds from an act to the next
UNDONE_AFTER = (0.0, 12.0)  # seconds to the act that takes it back
CONTINUED = 0.6  # of the finished trials
COLUMNS = ("trials", "compared", "starts", "failed", "most restarts", "checkpoints", "images")
TO_THE_END = 900.0  # seconds for what is open when the time is up


class Due(NamedTuple):
    """An act that takes another one back."""

    moment: float
    kind: str
    subject: Subject | None
    act: Callable[[], object]


class Chaos:
    """Does things to a trial of each job at moments that the seed says, and writes them down."""

    def __init__(self, cluster: Cluster, jobs: Sequence[Job], seed: int, seconds: float):
        self._cluster = cluster
        self._draw = random.Random(seed)
        self._began = time.monotonic()
        self._until = self._began + seconds
        self._due: list[Due] = []
        self._open: list[Subject] = []
        self.done: Counter[str] = Counter()
        self.subjects: list[Subject] = []
        for job in jobs:
            self._begin(job)

    @property
    def is_ending(self) -> bool:
        return time.monotonic() > self._until

    def run(self) -> None:
        """Make trouble until the time is up, and let what is open then come to its end."""
        try:
            self._make_trouble()
            self._say("the time is up; what is open goes on undisturbed")
            while self._open and time.monotonic() < self._until + TO_THE_END:
                self._tend()
        finally:
            for subject in self._open:
                subject.abandon()

    def _make_trouble(self) -> None:
        moment = self._began
        while not self.is_ending:
            if time.monotonic() > moment:
                self._act()
                moment = time.monotonic() + self._draw.uniform(*BETWEEN)
            self._tend()

    def _act(self) -> None:
        (kind,) = self._draw.choices(list(ACTS), list(ACTS.values()))
        subject = self._draw.choice(self._open)
        acts = {
            "pause": subject.pause,
            "preempt": subject.preempt,
            "kill a rank": subject.kill_rank,
            "kill the launcher": subject.kill_launcher,
            "kill S3": self._cluster.break_storage,
            "stop": subject.stop,
        }
        back = {
            "pause": ("activate", subject, subject.activate),
            "kill S3": ("start S3", None, self._cluster.mend_storage),
        }
        if acts[kind]():
            self._note(kind, None if kind == "kill S3" else subject)
            if kind in back:
                self._take_back(*back[kind])

    def _tend(self) -> None:
        now = time.monotonic()
        for due in [one for one in self._due if self.is_ending or one.moment < now]:
            self._due.remove(due)
            due.act()
            self._note(due.kind, due.subject)
        for subject in list(self._open):
            if said := subject.tend():
                self._say(said)
            if subject.is_over and self._cluster.s3.runs:
                self._see_to(subject)
        time.sleep(0.05)

    def _see_to(self, subject: Subject) -> None:
        """Compare a trial that has finished; continue it, or begin another."""
        if any(due.subject is subject for due in self._due):
            return
        finished = subject.trial.state == COMPLETED
        if finished:
            found = subject.compare()
            self._say(f"{subject.name} is compared: {'; '.join(found) or 'as undisturbed'}")
        if not finished or self._is_to_grow(subject):
            self._take_back("continue", subject, subject.go_on)
            return
        self._open.remove(subject)
        if not self.is_ending:
            self._begin(subject.job)

    def _is_to_grow(self, subject: Subject) -> bool:
        grown = subject.size == subject.job.sizes[1]
        return not grown and not self.is_ending and self._draw.random() < CONTINUED

    def _begin(self, job: Job) -> None:
        subject = Subject(self._cluster, job, self._draw)
        self._open.append(subject)
        self.subjects.append(subject)

    def _take_back(self, kind: str, subject: Subject | None, act: Callable[[], object]) -> None:
        moment = time.monotonic() + self._draw.uniform(*UNDONE_AFTER)
        self._due.append(Due(moment, kind, subject, act))

    def _note(self, kind: str, subject: Subject | None) -> None:
        self.done[kind] += 1
        self._say(f"- {kind}: {subject.name} ({subject.where})" if subject else f"- {kind}")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)


def print_table(chaos: Chaos, jobs: Sequence[Job]) -> None:
    """Print what was done, and what came of it."""
    print("\n" + "  ".join(f"{kind} {chaos.done[kind]}" for kind in (*ACTS, *TAKEN_BACK)))
    print(" " * 10 + "".join(f"{column:>15}" for column in COLUMNS))
    for job in jobs:
        mine = [one for one in chaos.subjects if one.job is job]
        row = (
            len(mine),
            sum(one.compared for one in mine),
            sum(one.starts for one in mine),
            sum(one.failed for one in mine),
            max(one.restarts for one in mine),
            sum(len(one.trial.checkpoints) for one in mine),
            sum(job.count(one.trial) for one in mine),
        )
        print(f"{job.name:10}" + "".join(f"{value:15}" for value in row))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1000))
    asked = parser.parse_args()
    console.hush_loading()
    scheme = ("http", "https")[asked.seed % 2]
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {asked.seed}, storage by {scheme}, logs in {folder}/agent; first undisturbed runs")
    with open_cluster(folder, scheme) as cluster:
        model = build(folder / "diffusion")
        jobs = (Training(model), Grid(model, folder / "images"))
        for job in jobs:
            cluster.run_undisturbed(job)
        chaos = Chaos(cluster, jobs, asked.seed, 60 * asked.minutes)
        chaos.run()
        print_table(chaos, jobs)
    wrong = [f"{one.name}: {what}" for one in chaos.subjects for what in one.differences]
    wrong += [f"a broken rule: {rule}" for rule in cluster.master.broken]
    print("\n" + ("\n".join(wrong) or "everything is as undisturbed, and no rule was broken"))
    if not wrong:
        shutil.rmtree(folder)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
