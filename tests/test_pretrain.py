import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn
from transformers import CLIPModel

from demo.pretrain import BESIDE
from demo.training import Plan, train
from detsd.generate import load_pipeline

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
MIB = 2**20


def pretrain(folder, *arguments, code=0):
    command = [sys.executable, "-m", "demo.pretrain", *arguments, "--out", str(folder / "model")]
    small = ["--pictures", "500", "--batch", "4", "--threads", "1", "--work", str(folder / "work")]
    done = subprocess.run(
        [*command, *small], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == code, done.stderr[-2000:]
    return done.stderr if code else folder / "model"


def log(model):
    return [json.loads(line) for line in (model / "training.jsonl").read_text().splitlines()]


def test_twenty_steps_make_a_model_and_more_go_on(tmp_path):
    model = pretrain(tmp_path, "--steps", "20")
    assert [line["part"] for line in log(model)] == ["vae", "unet", "scorer"]
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red star", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    before = log(model)
    pretrain(tmp_path, "--steps", "20")
    assert log(model) == before  # nothing was left to do
    assert "--side 128 needs another --out" in pretrain(tmp_path, "vae", "--side", "128", code=1)


def train_a_line(folder, steps, given=None, **more):
    torch.manual_seed(0)
    line = nn.Linear(4, 4)
    if given:
        line.load_state_dict(given)
    kept = []

    def losses_at(step):
        drawn = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 4, generator=drawn).bfloat16()
        return {"loss": (line(inputs) - inputs).float().square().mean()}

    plan = Plan(steps=steps, batch=8, learning_rate=0.1, warmup=2, save_every=2, **more)
    train([line], plan, losses_at, folder / "line.pt", lambda modules: kept.extend(modules))
    return kept[-1].state_dict(), torch.load(folder / "line.pt", weights_only=True)


def test_training_goes_on_where_it_was(tmp_path):
    plan = {"decay": 0.5}
    straight, state = train_a_line(tmp_path / "straight", 8, **plan)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        interrupted(cut, plan)
    resumed, again = train_a_line(cut, 8, **plan)
    assert torch.equal(straight["weight"], resumed["weight"])
    for name in ("weights", "average"):
        assert torch.equal(state[name][0]["weight"], again[name][0]["weight"])


def test_without_time_it_keeps_what_it_has_and_goes_on_from_there(tmp_path):
    plan = {"decay": 0.5}
    straight, state = train_a_line(tmp_path / "straight", 8, **plan)
    for done in range(1, 9):
        kept, again = train_a_line(tmp_path / "late", 8, until=0.0, **plan)
        assert again["step"] == done
    assert torch.equal(kept["weight"], straight["weight"])
    assert torch.equal(again["weights"][0]["weight"], state["weights"][0]["weight"])


def interrupted(folder, plan):
    torch.manual_seed(0)
    line = nn.Linear(4, 4)

    def losses_at(step):
        if step == 5:
            raise KeyboardInterrupt
        drawn = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 4, generator=drawn).bfloat16()
        return {"loss": (line(inputs) - inputs).float().square().mean()}

    plan = Plan(steps=8, batch=8, learning_rate=0.1, warmup=2, save_every=2, **plan)
    train([line], plan, losses_at, folder / "line.pt", lambda modules: None)


def test_the_average_of_trained_weights_is_kept(tmp_path):
    given = {"weight": torch.full((4, 4), 3.0), "bias": torch.zeros(4)}
    kept, _ = train_a_line(tmp_path / "a", 4, given, trained=True)
    assert (kept["weight"] - 3).abs().max() < 0.02
    forgotten, _ = train_a_line(tmp_path / "b", 4, given)
    assert (forgotten["weight"] - 3).abs().max() > 0.02


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


def test_the_model_names_no_path_of_the_machine_that_trained_it(model):
    for path in model.rglob("*.json*"):
        assert str(ROOT) not in path.read_text() and "_name_or_path" not in path.read_text()


def test_the_weights_are_those_that_the_log_says(model):
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
