"""A cluster's trial with checkpoints in S3: over https, through an outage, read by the SDK."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from determined.experimental import client
from determined.tensorboard import fetchers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detsd.fetch import fetch_checkpoint
from tests.cluster.agent import Agent, Container
from tests.cluster.containers import PATIENCE
from tests.cluster.master import CLUSTER, USER, Master
from tests.cluster.records import COMPLETED, ERROR, QUEUED, Trial
from tests.cluster.s3 import S3Server, provide_s3, provide_server  # noqa: F401
from tests.trials import changed

PROMPT = {"inference_prompts": ["a det-logo"], "num_inference_steps": 2, "sample_freq": 10}


@pytest.fixture
def bucket(s3: S3Server, master: Master, agent: Agent) -> Iterator[S3Server]:
    """The storage of the cluster, over https, whose containers are told of its authority."""
    master.defaults["checkpoint_storage"] = s3.place("https")
    agent.variables = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_CA_BUNDLE": str(s3.authority),
        "REQUESTS_CA_BUNDLE": str(s3.authority),
    }
    yield s3
    if not s3.runs:
        s3.start()


@pytest.fixture
def fetch(
    master: Master, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Trial], dict[str, bytes]]:
    """Fetch a trial's last export on another machine, by its UUID, with the SDK."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DET_MASTER", master.url)
    monkeypatch.setenv("DET_USER", str(USER["username"]))
    monkeypatch.setenv("DET_PASS", "secret")
    monkeypatch.setattr(client, "_determined", None)

    def fetch_export(trial: Trial) -> dict[str, bytes]:
        assert trial.latest is not None
        export = fetch_checkpoint(trial.latest["uuid"]) / "export"
        return {path.name: path.read_bytes() for path in export.iterdir()}

    return fetch_export


def longer(hparams: dict[str, Any]) -> dict[str, Any]:
    steps = {"num_sgd_steps": 40, "checkpoint_freq": 20, "metric_report_freq": 20}
    return changed(hparams, **{f"training__{name}": number for name, number in steps.items()})


def steps(trial: Trial) -> list[int]:
    return [one["metadata"]["steps_completed"] for one in trial.checkpoints]


def shown(trial: Trial, folder: Path) -> dict[str, bytes]:
    """Return the pictures that TensorBoard finds, fetched as a cluster's TensorBoard does."""
    place = f"{CLUSTER}/tensorboard/experiment/{trial.experiment.id}/trial/{trial.id}/"
    storage = trial.experiment.config["checkpoint_storage"]
    fetcher = fetchers.build(storage, [place], str(folder))
    for path in fetcher.list_all_generator():
        fetcher._fetch(path, lambda: None)
    fetched = folder / storage["bucket"] / place
    events = EventAccumulator(str(fetched), {"images": 0}).Reload()
    steps = [event.step for event in events.Images("samples/00-a-det-logo")]
    assert events.Scalars("Determined/loss")
    pictures = {str(path.relative_to(fetched)): path for path in fetched.rglob("*.png")}
    assert len(steps) == len(pictures)
    return {name: path.read_bytes() for name, path in pictures.items()}


def wait_for(master: Master, condition: Callable[[], bool]) -> None:
    with master.changed:
        assert master.changed.wait_for(condition, PATIENCE)


@contextmanager
def held_at_step_10(container: Container) -> Iterator[None]:
    """Hold its processes when the picture of that step is there, and is not uploaded yet.

    What was held too late has nothing left to upload: the log shows whether it had.
    """
    root = Path(f"/tmp/tensorboard-{container.allocation.id}-0")
    until(container, lambda: (root / "samples" / "step-000010" / "00-a-det-logo.png").exists())
    for process in container.processes:
        os.kill(process.pid, signal.SIGSTOP)
    yield
    for process in container.processes:
        os.kill(process.pid, signal.SIGCONT)


def wait_for_attempts(container: Container, count: int) -> None:
    until(container, lambda: container.log.count("everything waits, next attempt in") >= count)


def until(container: Container, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, container.log
        time.sleep(0.01)


def test_an_outage_costs_its_time_and_no_picture(
    bucket: S3Server, agent: Agent, submit: Any, hparams: Any, fetch: Any, tmp_path: Path
) -> None:
    hparams = longer(hparams)
    hparams["inference"] = PROMPT
    straight = submit(hparams)
    agent.run(straight)
    assert steps(straight) == [20, 40]
    pictures = shown(straight, tmp_path / "straight")
    assert len(pictures) == 5

    trial = submit(hparams)
    container = agent.start(trial)
    with held_at_step_10(container):
        bucket.kill()
        time.sleep(1.1)  # so that what is reported next does bring pictures along
    wait_for_attempts(container, 2)
    bucket.start()
    assert agent.finish(container) == 0, container.log
    assert "Sync of Tensorboard files failed" in container.log  # it was held in time
    assert (trial.state, steps(trial)) == (COMPLETED, [20, 40])
    assert fetch(trial) == fetch(straight)
    assert shown(trial, tmp_path / "disturbed") == pictures
    assert trial.metrics("validation") == straight.metrics("validation")
    assert bucket.place()["secret_key"] not in container.log


def test_a_pause_in_an_outage_is_acknowledged_and_a_start_in_one_waits(
    bucket: S3Server, master: Master, agent: Agent, submit: Any, hparams: Any
) -> None:
    trial = submit(longer(hparams))
    container = agent.start(trial, slots=2)
    wait_for(master, lambda: 20 in steps(trial))
    bucket.kill()
    wait_for_attempts(container, 2)
    master.preempt(trial)
    assert agent.finish(container) == 1  # which after an acknowledgement is no failure
    assert container.allocation.acknowledged
    assert (trial.state, trial.restarts, steps(trial)) == (QUEUED, 0, [20])
    (line,) = errors(container)
    assert line.startswith("error: step 40 could not be saved: checkpoints cannot be written to s3")
    container = agent.start(trial, slots=2)  # the storage is still away
    wait_for_attempts(container, 2)
    bucket.start()
    assert agent.finish(container) == 0, container.log
    assert (trial.state, steps(trial)) == (COMPLETED, [20, 40]), container.log


def test_a_new_trial_waits_out_an_outage_too_and_a_pause_ends_the_wait(
    bucket: S3Server, master: Master, agent: Agent, submit: Any, hparams: Any
) -> None:
    trial = submit(hparams)
    bucket.kill()
    container = agent.start(trial, slots=2)
    wait_for_attempts(container, 2)
    master.preempt(trial)
    assert agent.finish(container) == 1
    assert container.allocation.acknowledged
    assert (trial.state, trial.restarts) == (QUEUED, 0)
    (line,) = errors(container)
    assert line.startswith("error: checkpoints cannot be kept in s3")
    container = agent.start(trial, slots=2)
    wait_for_attempts(container, 2)
    bucket.start()
    assert agent.finish(container) == 0, container.log
    assert trial.state == COMPLETED


def test_what_is_downloaded_stays_until_the_last_has_read_it(
    bucket: S3Server, master: Master, agent: Agent, submit: Any, hparams: Any
) -> None:
    trial = submit(hparams)
    agent.run(trial, slots=2)
    for _ in range(3):  # it is a race
        master.go_on(trial.experiment, {})
        container = agent.run(trial, slots=2)
        assert "nothing is left to do" in container.log
        assert trial.state == COMPLETED, container.log


def errors(container: Container) -> list[str]:
    return re.findall("^error: .*", container.log, re.MULTILINE)


@pytest.fixture
def mistaken(s3: S3Server, master: Master, agent: Agent) -> Callable[[str], dict[str, Any]]:
    """Give the cluster a storage with the mistake that the storage calls so."""
    mistakes: dict[str, dict[str, Any]] = {
        "SignatureDoesNotMatch": {"secret_key": "not-the-secret"},
        "AccessDenied": {"who": "reader"},
        "NoSuchBucket": {"bucket": "missing"},
        "CERTIFICATE_VERIFY_FAILED": {"scheme": "https"},
    }
    agent.variables = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}

    def mistake(said: str) -> dict[str, Any]:
        master.defaults["checkpoint_storage"] = s3.place(**mistakes[said])
        return master.defaults["checkpoint_storage"]

    return mistake


@pytest.mark.parametrize(
    "said",
    ["SignatureDoesNotMatch", "AccessDenied", "NoSuchBucket", "CERTIFICATE_VERIFY_FAILED"],
)
def test_a_mistake_is_a_line_that_names_the_storage(
    said: str, mistaken: Any, agent: Agent, submit: Any, hparams: Any
) -> None:
    place = mistaken(said)
    trial = submit(hparams)
    container = agent.run(trial)
    assert trial.state == ERROR
    (line,) = errors(container)
    assert f"s3 {place['bucket']} {place['endpoint_url']}: " in line
    assert said in line
    assert place["secret_key"] not in container.log
    assert "Traceback" not in container.log


def test_determineds_launcher_finds_a_mistake_first(
    mistaken: Any, master: Master, agent: Agent, det: Any
) -> None:
    place = mistaken("SignatureDoesNotMatch")
    det("e", "create", "finetune_const.yaml", ".", "--config=max_restarts=0")
    container = agent.launch(master.trials[1])
    assert agent.finish(container) == 1
    (line,) = [line for line in container.log.splitlines() if line.startswith("ERROR: ")]
    assert "Checkpoint storage validation failed: Failed to upload /" in line
    assert f" to {place['bucket']}/" in line
    assert "An error occurred (SignatureDoesNotMatch) when calling the PutObject operation" in line
    assert place["secret_key"] not in container.log
