"""A trial in trouble. This file knows what can be done to one, and keeps it going."""

import random
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tests.cluster import processes
from tests.cluster.cluster import Cluster, on_slots
from tests.cluster.containers import Container
from tests.cluster.jobs import Job
from tests.cluster.records import COMPLETED, OVER, QUEUED

# An outage may end an attempt as it starts or reads its checkpoint, and not as it writes one.
NO_STORAGE = re.compile("error: checkpoints cannot be |Checkpoint storage validation failed")
LAUNCHED = 0.3  # of the attempts; the others start by forks, which takes a moment


class Subject:
    """A trial over all of its attempts, on the slots that its config names."""

    def __init__(self, cluster: Cluster, job: Job, draw: random.Random):
        self._cluster = cluster
        self._draw = draw
        self._ends = ThreadPoolExecutor(1)
        self._end: Future[int] | None = None
        self._began = 0.0
        self._hit: str | None = None  # what was done to this attempt
        self.job = job
        self.size = job.sizes[0]
        self.slots = draw.choice((1, 2))
        self.starts = 0
        self.failed = 0  # attempts
        self.restarts = 0  # at most
        self.compared = 0
        self.differences: list[str] = []
        self.container: Container | None = None
        self.trial = cluster.create(job, self.slots, self.size)

    @property
    def name(self) -> str:
        return f"{self.job.name} {self.trial.id}"

    @property
    def where(self) -> str:
        """How far it has come, for the log."""
        latest = self.trial.latest
        step = latest["metadata"]["steps_completed"] if latest else 0
        return f"attempt {self.trial.run}, checkpoint {step}, restarts {self.trial.restarts}"

    @property
    def is_over(self) -> bool:
        return self.container is None and self.trial.state in OVER

    def tend(self) -> str | None:
        """Start its next attempt, or take note of the end of one; return what there is to say."""
        if self.container is None:
            waits = self.trial.experiment.paused or self.trial.state != QUEUED
            return None if waits else self._start()
        assert self._end is not None
        return self._note_end(self._end.result()) if self._end.done() else None

    def abandon(self) -> None:
        """Leave nothing of it running; it has not ended in time."""
        self.differences.append(f"it did not end in time: {self.where}")
        if self.container is not None:
            processes.sweep(self.container)

    def _start(self) -> str:
        agent = self._cluster.agent
        launched = self._draw.random() < LAUNCHED
        self.container = (agent.launch if launched else agent.start)(self.trial)
        self._end = self._ends.submit(self.container.wait)
        self._began, self._hit = time.monotonic(), None
        self.starts += 1
        how = "by the launcher" if launched else "by forks"
        return f"{self.name} starts {how} on {self.slots} slots ({self.where})"

    def _note_end(self, code: int) -> str:
        container, trial, before = self.container, self.trial, self.trial.restarts
        assert container is not None
        processes.sweep(container)
        self._cluster.master.ended(container.allocation, code)
        self.container = None
        self.failed += trial.restarts > before
        self.restarts = max(self.restarts, trial.restarts)
        why = self._why(container, code)
        if why is None:
            why = "NOBODY KNOWS WHY"
            tail = container.log[-3000:]
            self.differences.append(f"attempt {trial.run} ended with {code}:\n{tail}")
        return f"{self.name} ends with {code}, {why}: {trial.state} ({self.where})"

    def _why(self, container: Container, code: int) -> str | None:
        """Return what explains the end of an attempt, if anything does."""
        if self._hit:
            return self._hit
        if container.allocation.acknowledged:
            seconds = container.allocation.seconds_to_acknowledge
            return f"preempted, {seconds:.1f} s after it was asked"
        if code == 0:
            return "done"
        away = not self._cluster.had_storage_since(self._began)
        return "no storage" if away and NO_STORAGE.search(container.log) else None

    # What can be done to it; most of it only to an attempt that is going on.

    def pause(self) -> bool:
        """Have a user pause it."""
        if self.container is None or self.trial.experiment.paused:
            return False
        self._cluster.det("e", "pause", str(self.trial.experiment.id))
        return True

    def activate(self) -> None:
        """Have a user activate it again."""
        self._cluster.det("e", "activate", str(self.trial.experiment.id))

    def kill_rank(self) -> bool:
        """Kill one of its ranks."""
        return self._kill(processes.ranks, "a rank killed")

    def kill_launcher(self) -> bool:
        """Kill one of the processes that have started the ranks."""
        return self._kill(processes.launchers, "its launcher killed")

    def stop(self) -> bool:
        """Have a user kill it."""
        if self.container is None:
            return False
        self._hit = "stopped"
        self._cluster.det("e", "kill", str(self.trial.experiment.id))
        processes.sweep(self.container)
        return True

    def go_on(self) -> None:
        """Have a user continue it: a finished one to its larger size, a grid on other slots."""
        if self.trial.state == COMPLETED:
            self.size = self.job.sizes[1]
        if self.job.any_slots:
            self.slots = 3 - self.slots
        changes = [*on_slots(self.slots), *self.job.sized(self.size)]
        self._cluster.det("e", "continue", str(self.trial.experiment.id), *changes)

    def _kill(self, find: Callable[[Container], list[int]], hit: str) -> bool:
        # The last of its restarts is for what else may happen to it.
        used_up = self.trial.restarts >= self.trial.experiment.config["max_restarts"]
        if self.container is None or used_up or not (found := find(self.container)):
            return False
        self._hit = hit
        processes.kill(self._draw.choice(found))
        return True

    def compare(self) -> list[str]:
        """Compare what it has come to with an undisturbed run's; return what differs."""
        self.compared += 1
        try:
            found = list(self.job.differences(self.trial, self.size, self.slots))
        # What is missing looks different in storage, index and export.
        except Exception as error:
            found = [f"cannot be compared: {error!r}"]
        self.differences += found
        return found
