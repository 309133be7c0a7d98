"""A model for several trials: loaded once, and each finds it as if it were the first."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from detsd import kept
from detsd.config import ModelConfig
from detsd.grid import generate_grid
from detsd.kept import open_model
from tests.tiny_model import build
from tests.trials import EVERYTHING, LORA, changed, exports, last, run

CPU = torch.device("cpu")
METHODS = {
    "words": {"kind": "textual_inversion"},
    "lora": LORA,
    "everything": EVERYTHING,
    "full": {"kind": "full"},
}


@pytest.fixture(autouse=True)
def loads(monkeypatch):
    """Note each model that is really loaded; nothing is kept before or after."""
    kept._kept.clear()
    loads: list[str] = []
    load = UNet2DConditionModel.from_pretrained.__func__

    def noted(kind: Any, name: str, **arguments: Any) -> Any:
        loads.append(Path(name).name)
        return load(kind, name, **arguments)

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", classmethod(noted))
    yield loads
    kept._kept.clear()


def config(folder: Path) -> ModelConfig:
    return ModelConfig(pretrained_model_name_or_path=str(folder))


def weights(model: Any) -> dict[str, torch.Tensor]:
    modules = {**model.modules, "vae": model.vae}
    return {
        f"{part}.{name}": value
        for part, module in modules.items()
        for name, value in module.state_dict().items()
    }


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_trials_in_a_row_end_as_each_would_alone(tmp_path, make, loads, family):
    points = {name: make(method, family=family) for name, method in METHODS.items()}
    points["words"]["concepts"]["learnable_properties"] = "object"
    points["everything"]["training"]["gradient_checkpointing"] = True
    alone = {name: exports(run(tmp_path / name / "alone", points[name])) for name in points}
    loads.clear()
    for name in ("everything", "words", "lora", "everything"):
        folder = run(tmp_path / name / f"after {len(loads)}", points[name], is_last=False)
        assert exports(folder) == alone[name]
    assert loads == [family]
    # All weights learn: those that were kept, as nobody else has them then.
    full = run(tmp_path / "full" / "next", points["full"], is_last=False)
    assert exports(full) == alone["full"]
    assert loads == [family]
    assert not kept._kept
    assert exports(run(tmp_path / "words" / "last", points["words"])) == alone["words"]
    assert loads == [family] * 2
    assert not kept._kept


def test_a_grid_of_trials_draws_what_each_would_alone(tmp_path, hparams, models, loads):
    learnt = run(tmp_path / "learnt", changed(hparams, training__num_sgd_steps=2))
    with_a_word = {
        "pipeline": {"pretrained_model_name_or_path": str(models["sd1"])},
        "local_checkpoint_paths": [str(last(learnt))],
        "call_kwargs": {"prompt": "a photo of a det-logo", "num_inference_steps": 2},
        "batch_size": 1,
    }
    plain = {**with_a_word, "local_checkpoint_paths": []}
    points = {"with a word": with_a_word, "plain": plain}
    alone = {name: drawn(run(tmp_path / name, points[name], generate_grid)) for name in points}
    loads.clear()
    for name in ("with a word", "plain", "with a word"):
        folder = tmp_path / f"{name} {len(list(tmp_path.iterdir()))}"
        assert drawn(run(folder, points[name], generate_grid, is_last=False)) == alone[name]
    assert loads == ["sd1"]


def drawn(folder: Path) -> list[bytes]:
    return [Image.open(path).tobytes() for path in sorted((folder / "images").iterdir())]


def test_what_is_done_to_one_is_not_seen_in_the_next(models, load):
    fresh = weights(load("sd1"))
    first = open_model(config(models["sd1"]), CPU, keep=True)
    first.unet.requires_grad_(True)
    first.unet.enable_gradient_checkpointing()
    first.unet.to(torch.bfloat16)
    first.text.encoders[0].tokenizer.add_tokens(["<det-logo:0>"])
    first.vae.to(torch.float16)
    second = open_model(config(models["sd1"]), CPU, keep=True)
    assert not any(weight.requires_grad for weight in second.unet.parameters())
    assert not second.unet.is_gradient_checkpointing
    assert len(second.text.encoders[0].tokenizer) == len(load("sd1").text.encoders[0].tokenizer)
    found = weights(second)
    assert found.keys() == fresh.keys()
    for name, value in found.items():
        assert value.dtype == fresh[name].dtype
        assert torch.equal(value, fresh[name])


def test_the_weights_are_there_once(models):
    first, second, last = (
        weights(open_model(config(models["sdxl"]), CPU, keep=keep)) for keep in (True, True, False)
    )
    for name, value in first.items():
        assert value.data_ptr() == second[name].data_ptr() == last[name].data_ptr()


def test_another_model_and_a_changed_one_are_loaded_and_the_last_alone_is_kept(tmp_path, loads):
    one, other = build(tmp_path / "one"), build(tmp_path / "other", seed=1)
    open_model(config(one), CPU, keep=True)
    open_model(config(one), CPU, keep=True, precision="bf16")
    open_model(config(other), CPU, keep=True)
    open_model(config(one), CPU, keep=True)
    assert loads == ["one", "one", "other", "one"]
    assert len(kept._kept) == 1
    build(tmp_path / "one", seed=2)
    changed = open_model(config(one), CPU, keep=True)
    assert loads[4:] == ["one"]
    assert torch.equal(
        weights(changed)["unet.conv_in.weight"],
        UNet2DConditionModel.from_pretrained(one, subfolder="unet").conv_in.weight,
    )
