"""A cluster for each test: a master, an agent and the command line of a user."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.agent import Agent
from tests.cluster.commandline import CommandLine
from tests.cluster.master import Master
from tests.cluster.records import Trial


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """A master whose rules nobody breaks."""
    storage = tmp_path / "storage"
    storage.mkdir()
    master = Master(storage)
    yield master
    master.close()
    assert not master.broken


@pytest.fixture
def agent(master: Master, tmp_path: Path) -> Iterator[Agent]:
    """What runs the master's trials."""
    agent = Agent(master, tmp_path / "agent")
    yield agent
    agent.close()


@pytest.fixture
def det(master: Master, tmp_path: Path) -> CommandLine:
    """What a user types."""
    return CommandLine(master, tmp_path)


@pytest.fixture
def submit(master: Master) -> Callable[..., Trial]:
    """Make an experiment of one trial without the command line; return the trial."""

    def submit_hparams(
        hparams: dict[str, Any], module: str = "detsd.finetune", **config: Any
    ) -> Trial:
        whole = {
            "entrypoint": f"python3 -m determined.launch.torch_distributed python3 -m {module}",
            "searcher": {"name": "single", "metric": "loss"},
            "max_restarts": 0,
            "hyperparameters": hparams,
            **config,
        }
        experiment = master.create(yaml.safe_dump(whole), [], dry=False)
        return experiment.trials[0]

    return submit_hparams
