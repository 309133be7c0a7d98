"""An agent: it starts what the master wants, as in a container. This file knows what one finds."""

import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster import client, warm  # noqa: F401  client answers for the master, too
from tests.cluster.containers import Container, apart, surroundings
from tests.cluster.master import CLUSTER, USER, USER_TOKEN, Master, pack
from tests.cluster.nodes import Node
from tests.cluster.ports import free_ports
from tests.cluster.records import QUEUED, Experiment, Trial

MODULES = {"detsd.finetune", "detsd.grid"}
PREPARE = "python3 -m determined.exec.prep_container"


class Agent:
    """Starts attempts: quickly, by a fork that runs the entry point, or as a container does."""

    def __init__(self, master: Master, folder: Path):
        self.master = master
        self.folder = folder
        self.variables: dict[str, str] = {}  # of every container
        self._started: list[Container] = []

    def close(self) -> None:
        """Leave nothing running, and nothing behind."""
        for container in self._started:
            container.remove()

    def run(self, trial: Trial, *, slots: int | None = None) -> Container:
        """Run one attempt to its end, by a fork for each slot."""
        container = self.start(trial, slots=slots)
        self.finish(container)
        return container

    def finish(self, *containers: Container) -> int:
        """Wait for an attempt's end, and tell the master; return its exit code."""
        codes = [container.wait() for container in containers]
        for container in containers:
            container.remove()
        code = next((code for code in codes if code), 0)
        self.master.ended(containers[0].allocation, code)
        return code

    def run_all(self, experiment: Experiment, **arguments: Any) -> list[Container]:
        """Run attempt after attempt until nothing of the experiment is left to run."""
        done = []
        while not experiment.paused and (
            queued := [trial for trial in experiment.trials if trial.state == QUEUED]
        ):
            done.append(self.run(queued[0], **arguments))
        return done

    def start(self, trial: Trial, *, slots: int | None = None) -> Container:
        """Start an attempt by forks: no launcher, no context, and no time."""
        container = self._make(trial, slots)
        allocation = container.allocation
        unpack(trial.experiment.files, container.folder / "workdir")
        (module,) = MODULES & set(trial.experiment.config["entrypoint"].split())
        (port,) = free_ports(1)
        variables = self._variables(container)
        for rank in range(allocation.slots):
            ranks = {
                **{"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1},
                **{"WORLD_SIZE": allocation.slots, "LOCAL_WORLD_SIZE": allocation.slots},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DET_CHIEF_IP": "127.0.0.1"},
                "USE_TORCH_DISTRIBUTED": "True",
            }
            process = warm.start(
                *(warm.entry, module, allocation.slots),
                variables=variables | {name: str(value) for name, value in ranks.items()},
                cwd=container.folder / "workdir",
                log=container.folder / "log",
            )
            container.processes.append(process)
        return container

    def launch(
        self, trial: Trial, *, slots: int | None = None, hook: str = "test -f startup-hook.sh"
    ) -> Container:
        """Start an attempt with all that runs in a container: context, rendezvous, launcher.

        What the hook installs is there: to source it takes seconds, and is left to those who ask.
        """
        before = [f"{PREPARE} --download_context_directory", hook]
        return self._launch(self._make(trial, slots), before)

    def launch_on(self, nodes: Sequence[Node], trial: Trial) -> list[Container]:
        """Start an attempt on each of the nodes, as `launch` does one whose context is there."""
        allocation = self.master.allocate(trial, addresses=[node.address for node in nodes])
        places = enumerate(nodes)
        containers = [Container(allocation, self.folder, *place) for place in places]
        self._started += containers
        for container in containers:
            unpack(trial.experiment.files, container.folder / "workdir")
        return [self._launch(container, []) for container in containers]

    def _launch(self, container: Container, before: Sequence[str]) -> Container:
        steps = [
            f"cd {container.folder / 'workdir'}",
            *before,
            f"{PREPARE} --resources --rendezvous --proxy",
            "exec python3 -m determined.exec.launch",
        ]
        with (container.folder / "log").open("w") as log:
            process = subprocess.Popen(
                [*container.command, "bash", "-exc", "\n".join(steps)],
                # The hook has nobody to ask.
                env={**self._variables(container), "PIP_NO_INDEX": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        container.processes.append(process)
        return container

    def _make(self, trial: Trial, slots: int | None) -> Container:
        self._started.append(Container(self.master.allocate(trial, slots), self.folder))
        return self._started[-1]

    def _variables(self, container: Container) -> dict[str, str]:
        trial, allocation = container.allocation.trial, container.allocation
        config = trial.experiment.config
        start = self.master.start_of(trial)
        own = config.get("environment", {}).get("environment_variables", [])
        known = {
            "DET_MASTER": self.master.url,
            "DET_CLUSTER_ID": CLUSTER,
            "DET_AGENT_ID": f"agent-{container.rank}",
            "DET_CONTAINER_ID": container.id,
            "DET_RESOURCES_ID": container.id,
            "DET_RESOURCES_TYPE": "docker-container",
            "DET_SLOT_IDS": json.dumps(list(range(container.slots))),
            "DET_TASK_ID": f"{trial.experiment.id}.{trial.id}-{trial.run}",
            "DET_ALLOCATION_ID": allocation.id,
            "DET_SESSION_TOKEN": allocation.token,
            "DET_USER": str(USER["username"]),
            "DET_USER_TOKEN": USER_TOKEN,
            "DET_TASK_TYPE": "TRIAL",
            "DET_TRIAL_ID": str(trial.id),
            "DET_EXPERIMENT_ID": str(trial.experiment.id),
            "DET_TRIAL_SEED": str(7 + trial.run),  # which nothing may depend on
            "DET_HPARAMS": json.dumps(trial.hparams),
            "DET_EXPERIMENT_CONFIG": json.dumps(config),
            "DET_STEPS_COMPLETED": str(trial.started_from),
            "DET_TRIAL_RUN_ID": str(trial.run),
            **({"DET_LATEST_CHECKPOINT": start} if start else {}),
            **dict(line.split("=", 1) for line in own),
            "DET_RETRY_CONFIG": '{"total":0}',
        }
        return {**surroundings(container.folder), **apart(container), **known, **self.variables}


def unpack(files: list[dict[str, Any]], folder: Path) -> None:
    """Put the context where a container has it."""
    with tarfile.open(fileobj=io.BytesIO(pack(files))) as archive:
        archive.extractall(folder, filter="data")
