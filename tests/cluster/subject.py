"""A trial in trouble. This file knows what can be done to one."""

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tests.cluster import processes
from tests.cluster.cluster import Cluster, on_slots
from tests.cluster.containers import Container
from tests.cluster.ends import NO_STORAGE, End
from tests.cluster.jobs import Job
from tests.cluster.records import COMPLETED, OVER, QUEUED

ENDING = 15.0  # seconds from what ends an attempt to the end of its last process
LAUNCHED = 0.3  # of the attempts; the others start by forks, which takes a moment


class Subject:
    """A trial over all of its attempts, on the slots that its config names."""

    def __init__(self, cluster: Cluster, job: Job, draw: random.Random):
        self._cluster = cluster
        self._draw = draw
        self._ends = ThreadPoolExecutor(1)
        self._end: Future[tuple[int, float]] | None = None  # the code, and when
        self._began = 0.0
        self._hit: str | None = None  # what was done to this attempt
        self.job = job
        self.size = job.sizes[0]
        self.slots = draw.choice((1, 2))
        self.starts = 0
        self.failed = 0  # attempts
        self.restarts = 0  # at most
        self._explained = 0  # of its restarts since it was last continued
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
        return self._note_end(*self._end.result()) if self._end.done() else None

    def abandon(self) -> None:
        """Leave nothing of it running; it has not ended in time."""
        self.differences.append(f"it did not end in time: {self.where}")
        if self.container is not None:
            processes.sweep(self.container)

    def _start(self) -> str:
        agent = self._cluster.agent
        launched = self._draw.random() < LAUNCHED
        self.container = (agent.launch if launched else agent.start)(self.trial)
        self._end = self._ends.submit(self._wait, self.container)
        self._began, self._hit = time.monotonic(), None
        self.starts += 1
        how = "by the launcher" if launched else "by forks"
        return f"{self.name} starts {how} on {self.slots} slots ({self.where})"

    @staticmethod
    def _wait(container: Container) -> tuple[int, float]:
        return container.wait(), time.monotonic()

    def _note_end(self, code: int, moment: float) -> str:
        container, trial, before = self.container, self.trial, self.trial.restarts
        assert container is not None
        processes.sweep(container)
        self._cluster.master.ended(container.allocation, code)
        self.container = None
        end = self._end_of(container, code, moment)
        reason = end.reason()
        if trial.restarts > before:
            self.failed += 1
            self.restarts = max(self.restarts, trial.restarts)
            self._explained += reason is not None and reason in (self._hit, NO_STORAGE)
            if trial.restarts > self._explained:
                counted = f"{trial.restarts} restarts, of which {self._explained} are explained"
                self.differences.append(f"{trial.state} after {counted}")
        if reason is None:
            reason = "NOBODY KNOWS WHY"
            said = "\n".join(end.strange()) or end.log[-3000:]
            self.differences.append(f"attempt {trial.run} ended with {code}:\n{said}")
        if end.is_late:
            self.differences.append(f"attempt {trial.run} was too late: {reason}")
        return f"{self.name} ends with {code}, {reason}: {trial.state} ({self.where})"

    def _end_of(self, container: Container, code: int, moment: float) -> End:
        told = container.allocation
        after = told.seconds_to_acknowledge if told.acknowledged else None
        away = not self._cluster.had_storage(max(self._began, moment - ENDING), moment)
        return End(code, container.log, moment - self._began, self._hit, after, away)

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

    def preempt(self) -> bool:
        """Have another trial need its slots, which it gets back at once."""
        allocation = self.trial.allocation
        if self.container is None or allocation is None or allocation.preempted:
            return False
        self._cluster.master.preempt(self.trial)
        return True

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
        self._explained = 0
        changes = [*on_slots(self.slots), *self.job.sized(self.size)]
        self._cluster.det("e", "continue", str(self.trial.experiment.id), *changes)

    def _kill(self, find: Callable[[Container], list[int]], hit: str) -> bool:
        # The last of its restarts is for what else may happen to it.
        used_up = self.trial.restarts >= self.trial.experiment.config["max_restarts"]
        if self.container is None or used_up or not (found := find(self.container)):
            return False
        if not processes.kill(self._draw.choice(found)):
            return False
        self._hit = hit
        return True

    def compare(self) -> list[str]:
        """Compare what it has come to with an undisturbed run's; return what differs."""
        self.compared += 1
        try:
            found = list(self.job.differences(self.trial, self.size))
        # What is missing looks different in storage, index and export.
        except Exception as error:
            found = [f"cannot be compared: {error!r}"]
        self.differences += found
        return found
