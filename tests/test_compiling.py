"""What is compiled, and that a step comes to the same however it is computed."""

import json
import os
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from detsd import compiling
from detsd.compiling import CACHE_VARIABLE, chosen, compile_modules
from detsd.config import FinetuneConfig, read
from tests.trials import LORA, changed, run

CPU, GPU = torch.device("cpu"), torch.device("cuda")
# How far the loss of a step may be from that of plain fp32, by what it is computed in.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
WAYS = {
    "one at a time": {"micro_batch_size": 1},
    "checkpointed": {"gradient_checkpointing": True},
    "in bf16": {"precision": "bf16"},
}
COMPILED = {
    "blocks": {"compile": "blocks", "precision": "bf16", "gradient_checkpointing": True},
    "full": {"compile": "full"},
}
METHODS = {"words": {}, "lora": LORA, "full": {"kind": "full"}}


def loss_of(folder: Path) -> float:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    (loss,) = (line["metrics"]["loss"] for line in lines if line["group"] == "training")
    return loss


def assert_same_loss(tmp_path: Path, hparams: dict[str, Any], options: dict[str, Any]) -> None:
    hparams = changed(hparams, training__num_sgd_steps=1, training__micro_batch_size=4)
    plain = loss_of(run(tmp_path / "plain", hparams))
    other = changed(hparams, **{f"training__{key}": value for key, value in options.items()})
    found = loss_of(run(tmp_path / "other", other))
    assert found == pytest.approx(plain, rel=TOLERANCE[options.get("precision", "fp32")])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_a_step_has_the_loss_of_a_plain_one(tmp_path, hparams, method, way):
    hparams["method"] = METHODS[method] or {"kind": "textual_inversion"}
    assert_same_loss(tmp_path, hparams, WAYS[way])


@pytest.mark.slow
@pytest.mark.parametrize("what", COMPILED)
def test_compiled_a_step_has_the_loss_of_a_plain_one(tmp_path, hparams, what, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    assert_same_loss(tmp_path, hparams, COMPILED[what])
    assert list((tmp_path / "compiled").iterdir())


def test_short_runs_and_cpus_are_not_worth_it():
    assert chosen("auto", GPU, 2_000) == "off"
    assert chosen("auto", GPU, compiling.PASSES_THAT_PAY) == "blocks"
    assert chosen("auto", CPU, 10**9) == "off"
    assert {chosen(said, CPU, 1) for said in ("off", "blocks", "full")} == {"off", "blocks", "full"}


def test_off_is_no_switch(hparams):
    read_config = read(FinetuneConfig, changed(hparams, training__compile=yaml.safe_load("off")))
    assert read_config.training.compile == "off"


def test_blocks_are_compiled_where_they_are_and_the_cache_is_kept(load, monkeypatch, tmp_path):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    model = load("sd1")
    names = list(model.unet.state_dict())
    compile_modules(model.modules, "off")
    assert CACHE_VARIABLE not in os.environ
    compile_modules(model.modules, "blocks")
    compiled = {
        type(part).__name__
        for module in model.modules.values()
        for part in module.modules()
        if part._compiled_call_impl is not None
    }
    assert compiled == set(compiling.BLOCKS)
    assert list(model.unet.state_dict()) == names
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / ".cache/detsd/compiled")


def test_what_an_earlier_trial_has_compiled_is_forgotten(load, monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    counters, calls = torch._dynamo.utils.counters["stats"], []
    for count in (1, 2, 1):
        text = load("sd1").text
        compile_modules({"text_encoder": text.encoders[0].module}, "blocks")
        before = counters["calls_captured"]
        text.encode(["a photo", "a painting"][:count])
        calls.append(counters["calls_captured"] - before)
    assert calls[0] > 0
    assert len(set(calls)) == 1
