"""What pauses, failures, continues and warm starts do to a trial of training."""

import json
import shutil
import time
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detsd.resume import FORMAT, STATE
from tests.cluster.client import ranking
from tests.cluster.containers import PATIENCE
from tests.cluster.master import CLUSTER
from tests.cluster.records import CANCELED, COMPLETED, QUEUED, Trial
from tests.trials import changed

PROMPT = {"inference_prompts": ["a det-logo"], "num_inference_steps": 2}


def longer(hparams: dict[str, Any]) -> dict[str, Any]:
    return changed(hparams, training__num_sgd_steps=30, training__checkpoint_freq=12)


def folder(master, trial: Trial):
    return master.storage / trial.latest["uuid"]


def exported(master, trial: Trial) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder(master, trial) / "export").iterdir()}


def vectors(master, trial: Trial, name: str = "det-logo") -> dict[str, torch.Tensor]:
    return load_file(folder(master, trial) / "export" / f"{name}.safetensors")


def steps(trial: Trial) -> list[int]:
    return [one["metadata"]["steps_completed"] for one in trial.checkpoints]


def wait_for_metrics(master, container, count: int) -> None:
    trial = container.allocation.trial
    with master.changed:
        assert master.changed.wait_for(lambda: len(trial.metrics("training")) >= count, PATIENCE)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_trial_reports_saves_and_shows(master, agent, submit, hparams, slots):
    hparams["inference"] = PROMPT
    agent.variables = {"HF_TOKEN": "YOUR_HF_AUTH_TOKEN_HERE"}
    secrets = {"secrets": {"hf_token": "hf_nobodyMayReadThis"}}
    trial = submit(hparams, resources={"slots_per_trial": 2}, data=secrets)
    container = agent.run(trial, slots=slots)
    assert "placeholder" not in container.log  # so the secret has taken its place
    assert "hf_nobodyMayReadThis" not in container.log
    assert [*trial.metrics("training")] == [2, 4, 6]
    assert [*trial.metrics("validation")] == [0, 2, 4, 6]
    assert master.count("/progress") == 6
    assert steps(trial) == [2, 4, 6]
    assert trial.latest["metadata"]["trial_id"] == trial.id
    assert "export/det-logo.safetensors" in trial.latest["resources"]
    ranked = {one["uuid"]: one["metadata"]["steps_completed"] for one in trial.checkpoints}
    assert [(loss, ranked[uuid]) for loss, uuid in ranking(trial)] == sorted(
        (trial.metrics("validation")[step]["loss"], step) for step in (2, 4, 6)
    )  # what `save_trial_best` goes by

    # All of TensorBoard's pictures are there, those of the last step too.
    path = f"{CLUSTER}/tensorboard/experiment/{trial.experiment.id}/trial/{trial.id}"
    shown = EventAccumulator(str(master.storage / path), {"images": 0}).Reload()
    assert [event.step for event in shown.Images("samples/00-a-det-logo")] == [0, 2, 4, 6]
    assert len([*(master.storage / path).rglob("*.png")]) == 4


def test_a_preempted_trial_goes_on_as_if_nothing_had_happened(master, agent, submit, hparams, det):
    straight = submit(longer(hparams))
    agent.run(straight)
    assert steps(straight) == [12, 24, 30]

    trial = submit(longer(hparams))
    container = agent.start(trial)
    wait_for_metrics(master, container, 3)
    master.preempt(trial)
    assert agent.finish(container) == 0
    assert container.allocation.seconds_to_acknowledge < 5
    assert trial.state == QUEUED
    (stopped,) = steps(trial)
    assert 6 <= stopped < 30

    container = agent.run(trial)
    assert trial.state == COMPLETED
    assert container.allocation.acknowledged is False
    assert exported(master, trial) == exported(master, straight)
    assert trial.metrics("training").keys() >= straight.metrics("training").keys()
    assert trial.metrics("validation") == straight.metrics("validation")

    # Rescheduled, it has nothing to do.
    begun, requests = time.monotonic(), len(trial.table)
    master.go_on(trial.experiment, {})
    assert "nothing is left to do" in agent.run(trial).log
    assert time.monotonic() - begun < 10
    assert (len(trial.table), steps(trial)) == (requests, [stopped, *steps(straight)])

    # `det e continue` keeps the trial, and may change it.
    keys = {"learning_rate": 0, "num_sgd_steps": 40}
    training = [f"--config=hyperparameters.training.{key}={value}" for key, value in keys.items()]
    det("e", "continue", str(trial.experiment.id), *training)
    before = vectors(master, trial)
    agent.run(trial)
    assert steps(trial)[-1] == 40
    assert all(torch.equal(before[key], value) for key, value in vectors(master, trial).items())


def test_a_trial_that_fails_is_restarted_and_reports_nothing_twice(master, agent, submit, hparams):
    straight = submit(longer(hparams))
    agent.run(straight)
    trial = submit(longer(hparams), max_restarts=1)
    container = agent.start(trial)
    wait_for_metrics(master, container, 7)  # past the checkpoint of step 12
    container.kill()
    assert agent.finish(container) != 0
    assert (trial.state, trial.restarts, steps(trial)[0]) == (QUEUED, 1, 12)
    agent.run(trial)
    assert trial.state == COMPLETED
    assert exported(master, trial) == exported(master, straight)
    assert trial.metrics("validation") == straight.metrics("validation")
    assert len(ranking(trial)) == 3


def test_a_trial_that_a_user_kills_is_not_restarted(master, agent, submit, hparams, det):
    trial = submit(longer(hparams), max_restarts=5)
    container = agent.start(trial, slots=2)
    wait_for_metrics(master, container, 7)  # past the checkpoint of step 12
    det("e", "kill", str(trial.experiment.id))
    container.kill()  # by the agent, which the master tells to
    assert agent.finish(container) != 0
    assert (trial.state, trial.experiment.state) == (CANCELED, CANCELED)
    assert (trial.restarts, steps(trial)) == (0, [12])
    assert exported(master, trial)


def test_a_trial_paused_before_its_first_step_begins_again(master, agent, submit, hparams):
    hparams["inference"] = PROMPT
    straight = submit(hparams)
    agent.run(straight, slots=2)
    trial = submit(hparams)
    container = agent.start(trial, slots=2)
    master.preempt(trial)
    assert agent.finish(container) == 0
    assert container.allocation.acknowledged and not trial.checkpoints
    container = agent.run(trial, slots=2)
    assert trial.state == COMPLETED
    assert exported(master, trial) == exported(master, straight)


def test_a_trial_that_is_about_to_end_acknowledges_nothing(master, agent, submit, hparams):
    trial = submit(changed(hparams, training__num_sgd_steps=1))
    container = agent.start(trial)
    master.preempt(trial)
    assert agent.finish(container) == 0
    assert (trial.state, container.allocation.acknowledged) == (COMPLETED, False)


def test_a_test_runs_one_step(master, agent, submit, hparams):
    """`det e create --test` says no more than this."""
    searcher = {"name": "single", "metric": "loss", "max_length": {"batches": 1}}
    trial = submit(hparams, searcher=searcher | {"metric": "accuracy"})
    said = agent.run(trial).log
    assert steps(trial) == [1]
    assert "searcher.metric: accuracy is not measured" in said and "reports loss, steps" in said


def test_another_trials_checkpoint_starts_a_trial_at_step_0(master, agent, submit, hparams):
    source = submit(hparams)
    agent.run(source)
    # Of another version: nothing of what only its own trial reads can be read.
    state_file = folder(master, source) / STATE
    state = torch.load(state_file, weights_only=True)
    torch.save({**state, "format": FORMAT + 1}, state_file)
    hparams = changed(hparams, training__learning_rate=0, training__num_sgd_steps=2)
    for key, values in hparams["concepts"].items():
        hparams["concepts"][key] = [values, values]
    hparams["concepts"]["concept_strs"] = ["another", "det-logo"]
    searcher = {"name": "single", "metric": "loss", "source_trial_id": source.id}
    trial = submit(hparams, searcher=searcher)
    assert "det-logo starts from the checkpoint" in agent.run(trial).log
    assert steps(trial) == [2]
    assert trial.latest["metadata"]["trial_id"] == trial.id
    assert exported(master, trial).keys() >= {"another.safetensors", "det-logo.safetensors"}
    before = vectors(master, source)
    assert all(torch.equal(before[key], value) for key, value in vectors(master, trial).items())

    # So does one of the earlier example.
    earlier = master.storage / "of-the-earlier-example"
    earlier.mkdir()
    name = "learned_embeddings_dict.pt"
    shutil.copy(folder(master, source) / "export" / name, earlier / name)
    (earlier / "metadata.json").write_text('{"steps_completed": 4, "trial_id": 99}')
    again = submit(hparams, searcher=searcher | {"source_checkpoint_uuid": earlier.name})
    again.source = earlier.name
    agent.run(again)
    assert steps(again) == [2]
    assert all(torch.equal(before[key], value) for key, value in vectors(master, again).items())

    # As the trial's own it cannot be gone on from, and says so in a line.
    metadata = folder(master, source) / "metadata.json"
    assert json.loads(metadata.read_text())["trial_id"] == source.id
    master.go_on(source.experiment, {"hyperparameters": {"training": {"num_sgd_steps": 8}}})
    said = agent.run(source).log
    assert f"has format {FORMAT + 1}, this detsd goes on from format {FORMAT}: " in said
    assert "error: " in said
    assert "Traceback" not in said
