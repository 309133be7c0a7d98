import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel

from demo.pretrain import BESIDE
from detsd.generate import load_pipeline

ROOT = Path(__file__).parent.parent
MIB = 2**20


def pretrain(folder, *arguments):
    command = [sys.executable, "-m", "demo.pretrain", *arguments, "--out", str(folder / "model")]
    small = ["--pictures", "500", "--batch", "4", "--threads", "1", "--work", str(folder / "work")]
    done = subprocess.run(
        [*command, *small], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "model"


def log(model):
    return [json.loads(line) for line in (model / "training.jsonl").read_text().splitlines()]


def test_twenty_steps_make_a_model_and_more_go_on(tmp_path):
    model = pretrain(tmp_path, "--steps", "20")
    assert [line["part"] for line in log(model)] == ["vae", "unet", "scorer"]
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red star", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    before = (tmp_path / "work/unet.pt").read_bytes()
    pretrain(tmp_path, "unet", "--steps", "22")
    state = torch.load(tmp_path / "work/unet.pt", weights_only=True)
    assert state["step"] == 22 and (tmp_path / "work/unet.pt").read_bytes() != before
    assert [line["part"] for line in log(model)][-1] == "unet"


@pytest.fixture(scope="module")
def model():
    return BESIDE / "model"


def test_the_model_is_small_enough_for_the_repository(model):
    sizes = {path: path.stat().st_size for path in model.rglob("*.safetensors")}
    assert sum(sizes.values()) <= 24 * MIB
    assert sizes[model / "scorer/model.safetensors"] <= 4 * MIB


def test_the_model_loads_with_nothing_of_ours(model):
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {
        torch.float32
    }
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert CLIPModel.from_pretrained(model / "scorer").dtype == torch.float32


def test_the_weights_are_those_that_the_log_says(model):
    from hashlib import sha256

    hashes = json.loads((model / "hashes.json").read_text())
    assert hashes == {
        str(path.relative_to(model)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(model.rglob("*.safetensors"))
    }


def test_the_model_draws_the_colours_that_it_is_asked_for(model):
    pipeline = load_pipeline(model)
    red, blue = pipeline(
        [
            "a photo of a white star on a red background",
            "a photo of a white star on a blue background",
        ],
        steps=10,
        guidance=4.0,
        scheduler="ddim",
        batch_size=2,
    )
    corner = [torch.tensor(one.resize((8, 8)).getpixel((0, 0))) for one in (red, blue)]
    assert corner[0].argmax() == 0 and corner[1].argmax() == 2
