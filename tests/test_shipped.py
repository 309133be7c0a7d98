"""What the repository ships: YAMLs that are valid, pictures that are there, honest pins."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import detsd
from detsd.concepts import read_concepts
from detsd.config import (
    Experiment,
    FinetuneConfig,
    FullConfig,
    GridConfig,
    LoraConfig,
    PriorConfig,
    read,
)
from detsd.local import make_plan
from detsd.materials import read_stock
from detsd.sweep import wanted_images
from tests.conftest import ROOT
from tests.trials import last, run

# Written for the earlier example: its names, and no others.
EARLIER = """
name: detsd_finetune
entrypoint: python3 -m determined.launch.torch_distributed python3 finetune.py
searcher:
  name: single
  metric: loss
  max_length: 500
resources:
  slots_per_trial: 2
max_restarts: 1
environment:
    environment_variables:
        - HF_AUTH_TOKEN=YOUR_HF_AUTH_TOKEN_HERE
checkpoint_storage:
    save_trial_latest: 5
hyperparameters:
    model:
        pretrained_model_name_or_path: CompVis/stable-diffusion-v1-4
    concepts:
        learnable_properties: [object]
        concept_strs: [det-logo]
        initializer_strs: ["brain logo, concept art"]
        img_dirs: [det_logos]
    training:
        train_batch_size: 1
        gradient_accumulation_steps: 4
        optimizer_name: adam
        learning_rate: 5e-4
        checkpoint_freq: 2
        metric_report_freq: 2
    inference:
        generate_training_images: True
        num_pipeline_calls: 1
        num_inference_steps: 2
        other_inference_scheduler_kwargs: {}
        inference_prompts:
          - a watercolor painting on textured paper of a det-logo using soft strokes
"""


NEW_METHODS = (
    "dreambooth_lora.yaml",
    "dreambooth.yaml",
    "dreambooth_lora_sdxl.yaml",
    "pivotal.yaml",
)


@pytest.mark.parametrize(
    "name", ["finetune_const.yaml", "finetune_const_advanced.yaml", *NEW_METHODS]
)
def test_a_shipped_yaml_is_valid_and_says_how_to_run_it(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / name).read_text()
    assert f"det e create {name} ." in text
    assert f"python -m detsd run {name}" in text
    plan = make_plan(Path(name), [], None)
    assert plan.entry == ("detsd.finetune", "finetune")


def test_the_advanced_yaml_has_every_key():
    written = yaml.safe_load((ROOT / "finetune_const_advanced.yaml").read_text())
    for section, field in FinetuneConfig.model_fields.items():
        if section not in ("method", "prior"):
            assert written["hyperparameters"][section].keys() == set(field.annotation.model_fields)


@pytest.mark.parametrize("path", sorted(ROOT.glob("demo/*.yaml")), ids=lambda path: path.name)
def test_a_yaml_of_the_demo_is_valid_and_says_how_to_run_it(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert f"python -m detsd run demo/{path.name}" in path.read_text()
    assert make_plan(path.relative_to(ROOT), [], None).entry == ("detsd.finetune", "finetune")


def test_the_yamls_of_the_other_methods_have_every_key_of_them():
    lora, full = (hyperparameters(f"dreambooth{kind}.yaml") for kind in ("_lora", ""))
    assert lora["method"].keys() == set(LoraConfig.model_fields)
    assert lora["prior"].keys() == set(PriorConfig.model_fields)
    assert full["method"].keys() == set(FullConfig.model_fields)


@pytest.mark.parametrize("name", NEW_METHODS)
def test_a_shipped_yaml_of_another_method_runs(name, tmp_path, models, monkeypatch):
    monkeypatch.chdir(ROOT)
    hparams = hyperparameters(name)
    family = "sdxl" if "sdxl" in name else "sd1"
    hparams["model"]["pretrained_model_name_or_path"] = str(models[family])
    hparams["training"]["num_sgd_steps"] = 2
    hparams["inference"]["num_inference_steps"] = 2
    hparams["concepts"]["img_size"] = 16
    if "prior" in hparams:
        hparams["prior"] |= {"cache_dir": str(tmp_path / "cache"), "num_inference_steps": 2}
    trial = run(tmp_path / "run", hparams)
    export = last(trial) / "export"
    found = "model_index.json" if name == "dreambooth.yaml" else "pytorch_lora_weights.safetensors"
    assert (export / found).is_file()
    assert (export / "det-logo.safetensors").is_file() == (name == "pivotal.yaml")
    made = list((tmp_path / "cache").rglob("*.png"))
    assert len(made) == (200 if hparams.get("prior", {}).get("num_class_images") else 0)


def hyperparameters(name):
    return yaml.safe_load((ROOT / name).read_text())["hyperparameters"]


def test_the_shipped_grid_is_480_images_of_a_concept_that_is_there(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = make_plan(Path("generate_grid.yaml"), [], None)
    assert plan.entry == ("detsd.grid", "generate_grid")
    config = read(GridConfig, plan.points[0])
    assert len(wanted_images(config, slots=2)) == 480
    (materials,) = read_stock(config).values()
    vocabulary = materials.vocabulary
    assert list(vocabulary.known) == ["det-logo"]
    old = read_concepts(ROOT / "demo" / "det-logo.pt")[0].vectors["clip_l"]
    assert torch.equal(old, vocabulary.known["det-logo"].concept.vectors["clip_l"])


def test_the_notebooks_yaml_has_the_extra_that_the_hook_installs():
    environment = yaml.safe_load((ROOT / "detsd-notebook.yaml").read_text())["environment"]
    extra = dict(one.split("=") for one in environment["environment_variables"])["DETSD_EXTRA"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "jupyterlab" in project["optional-dependencies"][extra]


def test_an_earlier_yaml_runs_unchanged_but_for_the_model(cli, models):
    (cli.folder / "det_logos").symlink_to(ROOT / "det_logos")
    (cli.folder / "old.yaml").write_text(EARLIER)
    output = cli(
        "old.yaml",
        *("--set", f"model.pretrained_model_name_or_path={models['sd1']}"),
        *("--set", "searcher.max_length=4"),
    )
    assert "placeholder" in output
    assert (cli.folder / "runs/old/checkpoints/step-000004/export").is_dir()


def test_the_pictures_are_forty_or_more_and_named_as_captions():
    pictures = sorted((ROOT / "det_logos").iterdir())
    assert len(pictures) >= 40
    for path in pictures:
        assert re.fullmatch(r"[a-z]+(_[a-z]+){2,}\.jpg", path.name)
        with Image.open(path) as image:
            assert image.size == (512, 512)


def test_the_pictures_can_be_drawn_again(tmp_path):
    subprocess.run([sys.executable, "-m", "demo.draw_logos", tmp_path], cwd=ROOT, check=True)
    drawn, kept = ({p.name for p in folder.iterdir()} for folder in (tmp_path, ROOT / "det_logos"))
    assert drawn == kept


def test_the_pins_are_those_of_this_environment():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for requirement in project["dependencies"]:
        name = re.split(r"[>=]", requirement)[0]
        pinned = {key.lower(): value for key, value in pins.items()}[name]
        assert importlib.metadata.version(name).split("+")[0] == pinned
    assert project["version"] == detsd.__version__


def test_an_experiment_needs_nothing_but_hyperparameters():
    experiment = read(Experiment, {"hyperparameters": {}})
    assert experiment.resources.slots_per_trial == 1
    assert experiment.checkpoint_storage.place == {}
