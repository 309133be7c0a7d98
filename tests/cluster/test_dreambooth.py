"""A trial that changes the model itself, from its YAML to images by its checkpoint's UUID."""

from pathlib import Path

import pytest

from detsd.imagestore import read_records
from tests.cluster.containers import PATIENCE
from tests.cluster.records import COMPLETED, PAUSED

pytestmark = pytest.mark.slow
WORD = "a photo of a fbernuy logo"


def config(section: str, **values: object) -> list[str]:
    return [f"--config={section}.{name}={value}" for name, value in values.items()]


@pytest.fixture
def small(models) -> list[str]:
    """What makes the shipped YAMLs a matter of seconds."""
    base = {"pretrained_model_name_or_path": models["sd1"]}
    steps = {"num_sgd_steps": 24, "checkpoint_freq": 20, "metric_report_freq": 1}
    drawn = {"num_pipeline_calls": 1, "num_inference_steps": 2, "inference_prompts": f"[{WORD}]"}
    return [
        "--config=resources.slots_per_trial=2",
        *config("hyperparameters.model", **base),
        *config("hyperparameters.prior", num_class_images=5, num_inference_steps=2),
        *config("hyperparameters.training", **steps),
        *config("hyperparameters.inference", **drawn),
    ]


def exported(master, trial) -> dict[str, bytes]:
    folder: Path = master.storage / trial.latest["uuid"] / "export"
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("dreambooth_lora.yaml", "pytorch_lora_weights.safetensors"),
        ("dreambooth.yaml", "unet/diffusion_pytorch_model.safetensors"),
    ],
)
def test_it_is_paused_goes_on_and_is_drawn_with(master, agent, det, models, small, name, holds):
    for _ in range(2):
        det("e", "create", name, ".", *small)
    paused, straight = master.experiments.values()
    (trial,) = paused.trials
    container = agent.launch(trial)
    with master.changed:
        assert master.changed.wait_for(lambda: len(trial.metrics("training")) > 3, PATIENCE), (
            container.log
        )
    det("e", "pause", str(paused.id))
    assert agent.finish(container) == 0
    assert paused.state == PAUSED and container.allocation.acknowledged
    assert "making 5 pictures of 'a photo of a logo'" in container.log

    det("e", "activate", str(paused.id))
    again = agent.run(trial, slots=2)
    assert "pictures of 'a photo of a logo'" not in again.log  # the checkpoint brought them
    agent.run_all(straight)
    (other,) = straight.trials
    assert [trial.state, other.state] == [COMPLETED, COMPLETED]
    assert holds in exported(master, trial)
    assert exported(master, trial) == exported(master, other)

    sweep = {"prompt": f"[{WORD}]", "steps": 2, "guidance_scale": 4, "seed": "[1, 2]"}
    det(
        *("e", "create", "generate_grid.yaml", "."),
        f"--config=hyperparameters.pipeline.pretrained_model_name_or_path={models['sd1']}",
        "--config=hyperparameters.local_checkpoint_paths=null",
        f"--config=hyperparameters.uuids=[{trial.latest['uuid']}]",
        *config("hyperparameters.sweep", **sweep),
    )
    *_, grid = master.experiments.values()
    (drawn,) = grid.trials
    log = agent.run(drawn, slots=2).log
    assert drawn.state == COMPLETED, log
    records = read_records(master.storage / drawn.latest["uuid"] / "images.jsonl")
    assert [record["seed"] for record in records] == [1, 2]
    by_it = [record["adapters"] or record["model"] for record in records]
    assert all(trial.latest["uuid"] in str(one) for one in by_it), by_it
