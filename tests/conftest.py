"""Tiny real models, a few pictures, and a command line to run on them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from transformers import BitImageProcessor, CLIPImageProcessor, Dinov2Config, Dinov2Model

from demo.architecture import build_scorer
from demo.vocabulary import build_tokenizer
from detsd.config import ModelConfig
from detsd.model import StableDiffusion
from detsd.pretrained import load_model
from tests.single_files import original
from tests.tiny_model import FAMILIES, build

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """The last bits of a result depend on the number of threads."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the user's own runs have kept is not for tests, and what these keep not for them."""
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def fresh_home(
    home: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what one test keeps for the next."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each family."""
    root = tmp_path_factory.mktemp("models")
    return {family: build(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def scorer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights."""
    folder = tmp_path_factory.mktemp("scorer")
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    build_scorer(tokenizer, 32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size=32, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINO with random weights."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(size=28, crop_size=28).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def originals(models: dict[str, Path]) -> dict[str, dict[str, torch.Tensor]]:
    """What the single file of each family holds."""
    return {family: original(models[family], family) for family in FAMILIES}


@pytest.fixture
def write_single(originals: Any, tmp_path: Path) -> Callable[..., Path]:
    """Write a family's single file, perhaps with some of it changed."""

    def write(
        family: str = "sd1",
        other: Mapping[str, torch.Tensor | None] | None = None,
        name: str = "model.safetensors",
    ) -> Path:
        content = {**originals[family], **(other or {})}
        save_file({key: one for key, one in content.items() if one is not None}, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def load(models: dict[str, Path]) -> Callable[..., StableDiffusion]:
    """Load a fresh tiny model of a family."""

    def load_family(family: str, **arguments: Any) -> StableDiffusion:
        config = ModelConfig(pretrained_model_name_or_path=str(models[family]))
        return load_model(config, torch.device("cpu"), **arguments)

    return load_family


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of five small pictures, all different."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (20, 24 + number, 3))
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"on_a_wall_{number}.png")
    return folder


@pytest.fixture
def hparams(models: dict[str, Path], pictures: Path) -> dict[str, Any]:
    """Hyperparameters of a run that takes a second."""
    return {
        "model": {"pretrained_model_name_or_path": str(models["sd1"])},
        "concepts": {
            "concept_strs": "det-logo",
            "initializer_strs": "brain logo, sharp lines",
            "learnable_properties": "object",
            "img_dirs": str(pictures),
        },
        "training": {
            "num_sgd_steps": 6,
            "checkpoint_freq": 2,
            "metric_report_freq": 2,
            "gradient_accumulation_steps": 2,
        },
        "inference": {"generate_training_images": False},
    }


@pytest.fixture
def make(models: dict[str, Path], pictures: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Make hyperparameters of a run with a method."""

    def make(
        method: dict[str, Any],
        prior: dict[str, Any] | None = None,
        family: str = "sd1",
        **training: Any,
    ) -> dict[str, Any]:
        return {
            "model": {"pretrained_model_name_or_path": str(models[family])},
            "method": method,
            "prior": prior and {"cache_dir": str(tmp_path / "cache"), **prior},
            "concepts": {
                "concept_strs": "fbernuy",
                "initializer_strs": "brain",
                "img_dirs": str(pictures),
                "instance_prompt": "a photo of a fbernuy logo",
            },
            "training": {
                "num_sgd_steps": 4,
                "checkpoint_freq": 2,
                "metric_report_freq": 2,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-3,
                **training,
            },
            "inference": {"generate_training_images": False},
        }

    return make


@pytest.fixture
def experiment(hparams: dict[str, Any]) -> dict[str, Any]:
    """An experiment YAML around them."""
    return {
        "name": "test",
        "entrypoint": "python3 -m determined.launch.torch_distributed python3 -m detsd.finetune",
        "searcher": {"name": "single", "metric": "loss"},
        "resources": {"slots_per_trial": 2},
        "hyperparameters": hparams,
    }


class CommandLine:
    """`python -m detsd run` in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, experiment: dict[str, Any], name: str = "job.yaml") -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(experiment))
        return path

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "detsd", "run", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0, **variables: str) -> str:
        process = self.start(*arguments, **variables)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == code, output
        return output


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line, in the test's folder."""
    return CommandLine(tmp_path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]
