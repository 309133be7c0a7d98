"""An agent: it starts what the master wants, as in a container. This file knows what one finds."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.cluster import client, warm  # noqa: F401  client answers for the master, too
from tests.cluster.master import CLUSTER, USER, USER_TOKEN, Master
from tests.cluster.records import QUEUED, Allocation, Experiment, Trial
from tests.conftest import ROOT

PATCHES = Path(__file__).parent / "container"
PATIENCE = 120  # seconds for an attempt of a trial
GRACE = 3  # seconds from a process's failure to the end of the others: as the launcher's
MODULES = {"detsd.finetune", "detsd.grid"}


class Container:
    """An attempt of a trial that has been started."""

    def __init__(self, allocation: Allocation, folder: Path):
        self.allocation = allocation
        self.folder = folder
        self.scratch = Path(
            tempfile.mkdtemp(prefix="det-")
        )  # short: sockets have it in their names
        self.processes: list[Any] = []

    @property
    def log(self) -> str:
        """All that its processes have said."""
        return (self.folder / "log").read_text()

    def wait(self) -> int:
        """Return its exit code, when it has one."""
        deadline = time.monotonic() + PATIENCE
        while None in (codes := [_code(process) for process in self.processes]):
            failed = any(codes)
            if failed or time.monotonic() > deadline:
                time.sleep(GRACE)  # for the others to fail of themselves
                self.kill()
            time.sleep(0.02)
        self._remove_leftovers()
        return next((code for code in codes if code), 0)

    def kill(self) -> None:
        """End all of its processes at once, as an agent does when time is up."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                if isinstance(process, subprocess.Popen):
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()

    def _remove_leftovers(self) -> None:
        # A container's own /tmp goes with it; these names cannot be moved out of this machine's.
        id = self.allocation.id
        for folder in (self.scratch, f"/tmp/tensorboard-{id}-0"):
            shutil.rmtree(folder, ignore_errors=True)
        Path(f"/tmp/pid_server-{id}").unlink(missing_ok=True)


class Agent:
    """Starts attempts: quickly, by a fork that runs the entry point, or as a container does."""

    def __init__(self, master: Master, folder: Path):
        self.master = master
        self.folder = folder
        self.variables: dict[str, str] = {}  # of every container

    def run(self, trial: Trial, *, slots: int | None = None) -> Container:
        """Run one attempt to its end, by a fork for each slot."""
        container = self.start(trial, slots=slots)
        self.finish(container)
        return container

    def finish(self, container: Container) -> int:
        """Wait for an attempt's end, and tell the master."""
        code = container.wait()
        self.master.ended(container.allocation, code)
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

    def launch(self, trial: Trial, *, slots: int | None = None) -> Container:
        """Start an attempt with all that runs in a container: context, rendezvous, launcher."""
        container = self._make(trial, slots)
        prepare = "python3 -m determined.exec.prep_container"
        steps = [
            f"{prepare} --download_context_directory",
            # The hook is for an image without the bundle's requirements; here they are there.
            "test -f startup-hook.sh",
            f"{prepare} --resources --rendezvous --proxy",
            "exec python3 -m determined.exec.launch",
        ]
        with (container.folder / "log").open("w") as log:
            process = subprocess.Popen(
                ["sh", "-c", " && ".join(steps)],
                env=self._variables(container),
                cwd=container.folder / "workdir",
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        container.processes.append(process)
        return container

    def _make(self, trial: Trial, slots: int | None) -> Container:
        allocation = self.master.allocate(trial, slots)
        folder = self.folder / allocation.id
        for name in ("info", "workdir", "model"):
            (folder / name).mkdir(parents=True)
        return Container(allocation, folder)

    def _variables(self, container: Container) -> dict[str, str]:
        trial, allocation = container.allocation.trial, container.allocation
        config = trial.experiment.config
        start = self.master.start_of(trial)
        own = config.get("environment", {}).get("environment_variables", [])
        c10d, first, second = free_ports(3)
        known = {
            "DET_MASTER": self.master.url,
            "DET_CLUSTER_ID": CLUSTER,
            "DET_AGENT_ID": "agent",
            "DET_CONTAINER_ID": allocation.id,
            "DET_RESOURCES_ID": allocation.id,
            "DET_RESOURCES_TYPE": "docker-container",
            "DET_SLOT_IDS": json.dumps(list(range(allocation.slots))),
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
            "C10D_PORT": str(c10d),
            "INTER_TRAIN_PROCESS_COMM_PORT_1": str(first),
            "INTER_TRAIN_PROCESS_COMM_PORT_2": str(second),
        }
        return {
            **surroundings(container.folder),
            "TMPDIR": str(container.scratch),
            **known,
            **self.variables,
        }


def surroundings(folder: Path) -> dict[str, str]:
    """Return what a process finds that has nothing to do with this machine's user."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PATCHES),
        "CONTAINER_FOLDER": str(folder),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "TOKENIZERS_PARALLELISM": "false",
        "LC_ALL": "C.UTF-8",
    }


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _code(process: Any) -> int | None:
    return process.poll() if isinstance(process, subprocess.Popen) else process.exitcode


class CommandLine:
    """`det`, as a user of this master has it."""

    def __init__(self, master: Master, folder: Path):
        self.folder = folder
        self._variables = {
            **surroundings(folder),
            "DET_USER": str(USER["username"]),
            "DET_PASS": "secret",
        }
        self._master = master.url

    def __call__(self, *arguments: str, code: int = 0, cwd: Path = ROOT) -> str:
        """Run a command to its end, and return what it said."""
        process = self.start(*arguments, cwd=cwd)
        process.join(PATIENCE)
        said = (self.folder / "det.log").read_text()
        assert process.exitcode == code, said
        return said

    def start(self, *arguments: str, cwd: Path = ROOT) -> Any:
        """Start a command that goes on by itself."""
        (self.folder / "det.log").unlink(missing_ok=True)
        return warm.start(
            *(warm.det, "--master", self._master, *arguments),
            variables=self._variables,
            cwd=cwd,
            log=self.folder / "det.log",
        )
