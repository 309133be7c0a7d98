"""The whole way of a trial: `det e create`, the container, the launcher, the YAML's entrypoint."""

import base64
import re
import time
from typing import Any

import pytest

from tests.cluster import processes
from tests.cluster.containers import PATIENCE
from tests.cluster.ends import errors
from tests.cluster.records import COMPLETED, ERROR, PAUSED
from tests.conftest import ROOT

TOKEN = "hf_nobodyMayReadThis"
# Run in place of the entry point: the second process fails in its third step.
CRASH = """
import os
from detsd import finetune
steps, whole = [], finetune.sum_gradients
def sum_gradients(*arguments):
    steps.append(1)
    if os.environ["RANK"] == "1" and len(steps) == 3:
        raise RuntimeError("a GPU has fallen off the bus")
    return whole(*arguments)
finetune.sum_gradients = sum_gradients
finetune.main()
"""


def config(**values: Any) -> list[str]:
    return [f"--config={name.replace('__', '.')}={value}" for name, value in values.items()]


@pytest.fixture
def small(models) -> list[str]:
    """What makes the shipped finetune_const.yaml a matter of seconds."""
    return config(
        hyperparameters__model__pretrained_model_name_or_path=models["sd1"],
        hyperparameters__training__num_sgd_steps=32,
        hyperparameters__training__checkpoint_freq=24,
        hyperparameters__training__metric_report_freq=1,
        hyperparameters__inference__num_pipeline_calls=1,
        hyperparameters__inference__inference_prompts="[a det-logo on the moon]",
        hyperparameters__inference__num_inference_steps=2,
        data__secrets__hf_token=TOKEN,
    )


def exported(master, trial) -> dict[str, bytes]:
    folder = master.storage / trial.latest["uuid"] / "export"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_shipped_yaml_is_paused_and_goes_on(master, agent, det, small, tmp_path):
    det("e", "create", "finetune_const.yaml", ".", *small)
    det("e", "create", "finetune_const.yaml", ".", *small)
    experiment, other = master.experiments.values()
    uploaded = {file["path"] for file in experiment.files}
    assert {"detsd/finetune.py", "det_logos/on_a_red_brick_wall.jpg"} <= uploaded
    assert not [path for path in uploaded if path.startswith(("tests", "benchmarks", ".venv"))]
    (trial,) = experiment.trials
    container = agent.launch(trial, hook=". ./startup-hook.sh")
    with master.changed:
        assert master.changed.wait_for(lambda: len(trial.metrics("training")) > 3, PATIENCE)
    det("e", "pause", str(experiment.id))
    assert agent.finish(container) == 0
    assert experiment.state == PAUSED and container.allocation.acknowledged
    assert container.allocation.seconds_to_acknowledge < 5
    assert re.search(r"\[rank=0\] stopped at step \d+ of 32", container.log)

    det("e", "activate", str(experiment.id))
    agent.run_all(experiment)
    (straight,) = other.trials
    agent.run_all(other)
    assert [trial.state, straight.state] == [COMPLETED, COMPLETED]
    assert exported(master, trial) == exported(master, straight)

    uuid = trial.latest["uuid"]
    for mode in ("direct", "master"):
        into = tmp_path / mode
        det("checkpoint", "download", uuid, "--output-dir", str(into), "--mode", mode)
        export = {path.name: path.read_bytes() for path in (into / "export").iterdir()}
        assert export == exported(master, trial)

    read = [*master.storage.rglob("*"), *agent.folder.glob("*/log"), *tmp_path.glob("*.log")]
    assert not [path for path in read if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert "placeholder" not in container.log


def test_a_process_that_fails_takes_the_trial_down_and_has_the_last_word(master, agent, det, small):
    det("e", "create", "finetune_const.yaml", ".", *small, *config(max_restarts=0))
    (experiment,) = master.experiments.values()
    crash = {"path": "crash.py", "type": 48, "content": base64.b64encode(CRASH.encode()).decode()}
    experiment.files.append({**crash, "mode": 0o644})
    entrypoint = experiment.config["entrypoint"]
    experiment.config["entrypoint"] = entrypoint.replace("-m detsd.finetune", "crash.py")
    (trial,) = experiment.trials
    container = agent.launch(trial)
    with master.changed:
        assert master.changed.wait_for(lambda: 2 in trial.metrics("training"), PATIENCE), (
            container.log
        )
    begun = time.monotonic()
    assert agent.finish(container) == 1
    assert time.monotonic() - begun < 30
    assert trial.state == ERROR
    *_, end = container.log.rpartition("RuntimeError: a GPU has fallen off the bus")
    assert not end.strip("\n ="), end  # torchrun's report closes with a line
    assert "closed by peer" not in container.log


def test_a_process_that_is_killed_takes_the_trial_down(master, agent, det, small):
    det("e", "create", "finetune_const.yaml", ".", *small, *config(max_restarts=0))
    (trial,) = master.trials.values()
    container = agent.launch(trial)
    with master.changed:
        assert master.changed.wait_for(lambda: 2 in trial.metrics("training"), PATIENCE), (
            container.log
        )
    killed = processes.ranks(container)[-1]  # as Linux does that has no memory left
    begun = time.monotonic()
    processes.kill(killed)
    assert agent.finish(container) == 1
    assert time.monotonic() - begun < 30
    assert trial.state == ERROR
    *_, end = container.log.rpartition("Root Cause (first observed failure):")
    assert re.search(r"exitcode  : 247 \(pid: \d+\)", end), container.log  # 256 - SIGKILL
    assert all("ChildFailedError" in error for error in errors(container.log)), container.log


def test_a_test_of_the_shipped_grid_runs_as_it_is(master, agent, det):
    command = det.start(
        "e", "create", "--test", "generate_grid.yaml", ".", *config(hyperparameters__sweep__steps=2)
    )
    with master.changed:
        assert master.changed.wait_for(lambda: master.trials, PATIENCE)
    (trial,) = master.trials.values()
    container = agent.launch(trial)
    assert agent.finish(container) == 0, container.log
    command.join(30)
    assert "Model definition test succeeded" in (det.folder / "det.log").read_text()
    assert "2 images, 2 of them to be made" in container.log
    assert trial.metrics("validation")[2]["prompt_adherence"]


def test_a_context_that_is_too_large_is_refused_unless_ignored(master, det, tmp_path):
    folder = tmp_path / "context"
    folder.mkdir()
    with (folder / "large.bin").open("wb") as file:
        file.truncate(96 * 2**20)
    said = det("e", "create", str(ROOT / "finetune_const.yaml"), str(folder), code=1)
    assert "exceeds" in said and ".detignore" in said
    (folder / ".detignore").write_text("*.bin\n")
    det("e", "create", str(ROOT / "finetune_const.yaml"), str(folder))
    (experiment,) = master.experiments.values()
    assert experiment.files == []
