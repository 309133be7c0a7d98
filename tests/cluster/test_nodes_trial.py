"""A trial on more than one machine: what each node does of it, and what is done once for all."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from determined.common import api
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.cluster import processes
from tests.cluster.agent import Agent
from tests.cluster.commandline import CommandLine
from tests.cluster.containers import PATIENCE, Container
from tests.cluster.master import Master
from tests.cluster.nodes import Node, missing, open_nodes
from tests.cluster.records import COMPLETED, QUEUED, Trial
from tests.cluster.relay import Relay, listen
from tests.cluster.s3 import BUCKET, S3Server, provide_s3, provide_server  # noqa: F401
from tests.conftest import ROOT
from tests.trials import changed

pytestmark = pytest.mark.slow


def port(url: str) -> int:
    found = urlsplit(url).port
    assert found is not None
    return found


@pytest.fixture
def storage(s3: S3Server, master: Master, agent: Agent) -> S3Server:
    """The storage of the cluster: what is restored from it has to be downloaded."""
    master.defaults["checkpoint_storage"] = s3.place()
    agent.variables = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}
    return s3


@pytest.fixture
def nodes(
    storage: S3Server,
    master: Master,
    agent: Agent,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Sequence[Node]]:
    """Two machines that reach the master, the storage and each other."""
    if lack := missing():
        pytest.skip(lack)
    with open_nodes(tmp_path, [tmp_path_factory.getbasetemp(), ROOT, Path(sys.prefix)]) as nodes:
        for node in nodes:
            node.relay(port(master.url))
            node.relay(port(storage.endpoint()))
        yield nodes


@pytest.fixture
def short(models: dict[str, Path]) -> list[str]:
    """What makes the shipped finetune_const.yaml a matter of seconds."""
    changes = {
        "model.pretrained_model_name_or_path": models["sd1"],
        "training.num_sgd_steps": 96,
        "training.checkpoint_freq": 24,
        "training.metric_report_freq": 1,
        "inference.num_pipeline_calls": 1,
        "inference.inference_prompts": "[a det-logo on the moon]",
        "inference.num_inference_steps": 2,
    }
    return [f"--config=hyperparameters.{name}={value}" for name, value in changes.items()]


def wait_for_checkpoint(master: Master, trial: Trial, containers: Sequence[Container]) -> None:
    """Wait until there is one to go on from."""
    with master.changed:
        there = master.changed.wait_for(lambda: bool(trial.checkpoints), PATIENCE)
        assert there, "\n".join(one.log for one in containers)


def downloads(relay: Relay, uuid: str) -> Counter[str]:
    """Return how often each file of a checkpoint was asked for."""
    place = f"GET /{BUCKET}/{uuid}/"
    return Counter(asked.removeprefix(place) for asked in relay.requests if asked.startswith(place))


def files(checkpoint: dict[str, Any]) -> dict[str, int]:
    """Return a checkpoint's files, each of them once."""
    return {name: 1 for name in checkpoint["resources"] if not name.endswith("/")}


def exported(det: CommandLine, trial: Trial) -> dict[str, bytes]:
    assert trial.latest is not None
    folder = det.folder / trial.latest["uuid"]
    det("checkpoint", "download", trial.latest["uuid"], "--output-dir", str(folder))
    return {path.name: path.read_bytes() for path in (folder / "export").iterdir()}


def test_a_trial_on_two_nodes_is_that_on_one(
    storage: S3Server,
    nodes: Sequence[Node],
    master: Master,
    agent: Agent,
    det: CommandLine,
    short: list[str],
) -> None:
    det("e", "create", "finetune_const.yaml", ".", *short)
    det("e", "create", "finetune_const.yaml", ".", *short)
    experiment, other = master.experiments.values()
    (trial,), (straight,) = experiment.trials, other.trials

    # One node's process is killed.
    containers = agent.launch_on(nodes, trial)
    wait_for_checkpoint(master, trial, containers)
    assert [where(container) for container in containers] == [
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"},
        {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"},
    ]
    place = f"/tmp/tensorboard-{containers[0].allocation.id}-0"
    assert [shown(node.path(place)) for node in nodes] == [{"pictures", "scalars"}, set()]
    (rank,) = processes.ranks(containers[1])
    processes.kill(rank)
    began = time.monotonic()
    assert agent.finish(*containers) != 0
    assert time.monotonic() - began < 30
    assert all(container.wait() for container in containers)  # each of itself
    assert (trial.state, trial.restarts) == (QUEUED, 1)

    # Started again, each downloads once, to come to what an undisturbed trial of one node does.
    saved = trial.latest
    containers = agent.launch_on(nodes, trial)
    assert agent.finish(*containers) == 0, "\n".join(one.log for one in containers)
    assert trial.state == COMPLETED
    relays = [node.relay(port(storage.endpoint())) for node in nodes]
    for relay in relays:
        assert downloads(relay, saved["uuid"]) == files(saved)
    agent.run(straight, slots=2)
    assert exported(det, trial) == exported(det, straight)
    assert trial.metrics("validation") == straight.metrics("validation")

    # Only the chief has written, and each checkpoint once.
    steps = [one["metadata"]["steps_completed"] for one in trial.checkpoints]
    assert steps == [24, 48, 72, 96]
    whole = [key for key in storage.keys("") if key.endswith("/metadata.json")]
    assert len(whole) == len(trial.checkpoints + straight.checkpoints)
    assert [uploads(relay, trial) for relay in relays] == [len(steps), 0]


def shown(folder: Path) -> set[str]:
    """Return what kinds of things TensorBoard would find in a folder."""
    kinds = {"pictures" for _ in folder.rglob("*.png")}
    for path in folder.glob("events.*"):
        # Determined begins a file in every process, which says its version and no more.
        kinds |= {"scalars" for event in EventFileLoader(str(path)).Load() if event.summary.value}
    return kinds


def uploads(relay: Relay, trial: Trial) -> int:
    """Return how many of the trial's checkpoints a node has written, in whole or in part."""
    wrote = {asked.split("/")[2] for asked in relay.requests if asked.startswith("PUT")}
    return len(wrote & {one["uuid"] for one in trial.checkpoints})


def where(container: Container) -> dict[str, str]:
    """Return what torchrun has told the container's only rank."""
    (rank,) = processes.ranks(container)
    said = Path(f"/proc/{rank}/environ").read_text().split("\0")
    told = dict(line.split("=", 1) for line in said if line)
    return {name: told[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")}


def test_the_processes_of_a_node_share_a_download(
    storage: S3Server,
    master: Master,
    agent: Agent,
    submit: Callable[..., Trial],
    hparams: dict[str, Any],
) -> None:
    with listen() as listener:
        relay = Relay(listener, port(storage.endpoint()))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        master.defaults["checkpoint_storage"] = storage.place(endpoint_url=url)
        trial = submit(changed(hparams, training__num_sgd_steps=2))
        agent.run(trial, slots=2)
        (checkpoint,) = trial.checkpoints
        master.go_on(trial.experiment, {"hyperparameters": {"training": {"num_sgd_steps": 4}}})
        container = agent.run(trial, slots=2)
        assert trial.state == COMPLETED, container.log
        assert downloads(relay, checkpoint["uuid"]) == files(checkpoint)
        relay.close()


def test_the_containers_of_an_attempt_meet(
    master: Master, submit: Callable[..., Trial], hparams: dict[str, Any]
) -> None:
    allocation = master.allocate(submit(hparams), slots=4, addresses=["10.0.0.1", "10.0.0.2"])
    session = api.TaskSession(master.url, "user", allocation.token, None, max_retries=0)

    def meet(rank: int) -> Any:
        place = f"/api/v1/allocations/{allocation.id}/resources/{allocation.id}.{rank}/rendezvous"
        return session.get(place).json()["rendezvousInfo"]

    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(meet, 1)
        with master.changed:
            assert master.changed.wait_for(lambda: allocation.met == {1}, 30)
        assert not second.done()
        first = meet(0)
        assert first == {"addresses": ["10.0.0.1", "10.0.0.2"], "rank": 0, "slots": [2, 2]}
        assert second.result() == {**first, "rank": 1}
