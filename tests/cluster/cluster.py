"""A whole cluster on this machine. This file knows how its parts are put together."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.cluster.agent import Agent
from tests.cluster.commandline import CommandLine
from tests.cluster.jobs import Job
from tests.cluster.master import USER, Master
from tests.cluster.ports import LOOPBACK
from tests.cluster.records import COMPLETED, Trial
from tests.cluster.s3 import S3Server
from tests.conftest import ROOT


class Cluster:
    """What trials run on: a master, an agent, a user's command line, and a storage that can go."""

    def __init__(self, master: Master, agent: Agent, det: CommandLine, s3: S3Server):
        self.master, self.agent, self.det, self.s3 = master, agent, det, s3
        self._outages: list[list[float]] = []  # from when to when

    def create(self, job: Job, slots: int, size: int) -> Trial:
        """Have a user make an experiment; return its trial."""
        path = self.det.folder / f"{job.name}.yaml"
        path.write_text(yaml.safe_dump(job.config))
        self.det("e", "create", str(path), str(ROOT), *on_slots(slots), *job.sized(size))
        return self.master.trials[max(self.master.trials)]

    def run_undisturbed(self, job: Job) -> None:
        """Run what the job's others are compared with."""
        for slots in job.undisturbed_slots:
            trial = self.create(job, slots, job.sizes[1])
            container = self.agent.run(trial)
            assert trial.state == COMPLETED, container.log
            job.learn(trial)

    def break_storage(self) -> bool:
        """Kill the S3 server; return whether it ran."""
        if not self.s3.runs:
            return False
        self.s3.kill()
        self._outages.append([time.monotonic(), float("inf")])
        return True

    def mend_storage(self) -> None:
        """Start the S3 server again on what it had kept."""
        self.s3.start()
        self._outages[-1][1] = time.monotonic()

    def had_storage(self, since: float, until: float) -> bool:
        """Return whether the S3 server ran all the time between the two moments."""
        return all(back < since or gone > until for gone, back in self._outages)


@contextmanager
def open_cluster(folder: Path, scheme: str) -> Iterator[Cluster]:
    """Start a cluster with its storage in S3, of which this process is a user's machine."""
    (folder / "s3").mkdir()
    s3, master = S3Server(folder / "s3"), Master(folder)
    agent = Agent(master, folder / "agent")
    master.defaults["checkpoint_storage"] = s3.place(scheme)
    agent.variables = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CA_BUNDLE": str(s3.authority),
        "REQUESTS_CA_BUNDLE": str(s3.authority),
    }
    user = {"HOME": str(folder), "DET_USER": str(USER["username"]), "DET_PASS": "secret"}
    os.environ |= agent.variables | user | {"DET_MASTER": master.url, "NO_PROXY": LOOPBACK}
    try:
        yield Cluster(master, agent, CommandLine(master, folder), s3)
    finally:
        agent.close()
        s3.kill()
        master.close()


def on_slots(slots: int) -> list[str]:
    """Return what says so on the command line of `det`."""
    return [f"--config=resources.slots_per_trial={slots}"]
