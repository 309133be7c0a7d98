"""What Fork and Continue of the Web UI make of a trial, by the requests that it sends for them."""

import base64
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from determined.common import api
from determined.common.api import bindings
from safetensors.torch import load_file

from tests.cluster.master import USER_TOKEN
from tests.cluster.records import COMPLETED, Trial
from tests.trials import changed


@pytest.fixture
def source(master, agent, det, hparams, tmp_path) -> Trial:
    """A trial that has ended, whose pictures came with its code."""
    context = tmp_path / "context"
    shutil.copytree(hparams["concepts"]["img_dirs"], context / "mine")
    whole = {
        "name": "parent",
        "entrypoint": "python3 -m determined.launch.torch_distributed python3 -m detsd.finetune",
        "searcher": {"name": "single", "metric": "loss"},
        "max_restarts": 0,
        "hyperparameters": changed(hparams, concepts__img_dirs="mine"),
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(whole))
    det("e", "create", str(tmp_path / "job.yaml"), str(context))
    (trial,) = master.trials.values()
    container = agent.run(trial)
    assert trial.state == COMPLETED, container.log
    return trial


def fork(master, parent: Trial, **changes: Any) -> Trial:
    """Make an experiment of another's config and code."""
    user = api.Session(master.url, "user", USER_TOKEN, None, max_retries=0)
    config = json.loads(json.dumps(parent.experiment.config)) | changes
    body = bindings.v1CreateExperimentRequest(
        activate=True, config=json.dumps(config), parentId=parent.experiment.id, projectId=1
    )
    made = bindings.post_CreateExperiment(user, body=body).experiment
    (trial,) = master.experiments[made.id].trials
    return trial


def frozen(hparams: Any) -> Any:
    """Return the hyperparameters as Continue writes them."""
    if isinstance(hparams, dict):
        return {key: frozen(value) for key, value in hparams.items()}
    return {"type": "const", "val": hparams}


def exported(master, trial: Trial) -> dict[str, bytes]:
    folder: Path = master.storage / trial.latest["uuid"] / "export"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def vectors(master, trial: Trial) -> dict[str, torch.Tensor]:
    return load_file(master.storage / trial.latest["uuid"] / "export" / "det-logo.safetensors")


def test_a_fork_starts_anew_with_its_parents_code(master, agent, source):
    trial = fork(master, source, description="Fork of parent")
    container = agent.start(trial)
    task = api.TaskSession(master.url, "user", container.allocation.token, None, max_retries=0)
    packed = base64.b64decode(bindings.get_GetTaskContextDirectory(task, taskId="its own").b64Tgz)
    with tarfile.open(fileobj=io.BytesIO(packed)) as context:
        assert {name.partition("/")[0] for name in context.getnames()} == {"mine"}
    assert agent.finish(container) == 0, container.log
    assert trial.experiment.files == source.experiment.files != []
    assert trial.id != source.id and trial.started_from == 0
    assert "starts from" not in container.log and "goes on" not in container.log
    assert trial.metrics("validation") == source.metrics("validation")
    assert 0 in trial.metrics("validation")
    assert exported(master, trial) == exported(master, source)
    assert trial.latest["metadata"]["trial_id"] == trial.id


def test_a_fork_of_a_continuation_starts_where_that_had_started(master, agent, source):
    searcher = {"name": "single", "metric": "loss", "smaller_is_better": True}
    hparams = changed(source.hparams, training__learning_rate=0, training__num_sgd_steps=2)
    continuation = fork(
        master,
        source,
        searcher=searcher | {"source_trial_id": source.id},
        hyperparameters=frozen(hparams),
        description=f"Continuation of trial {source.id}, experiment {source.experiment.id}",
    )
    again = fork(master, continuation)
    assert again.experiment.config["searcher"]["source_trial_id"] == source.id
    container = agent.run(again)
    assert "det-logo starts from the checkpoint" in container.log
    assert [one["metadata"]["steps_completed"] for one in again.checkpoints] == [2]
    assert again.latest["metadata"]["trial_id"] == again.id
    before = vectors(master, source)
    assert all(torch.equal(before[key], value) for key, value in vectors(master, again).items())
