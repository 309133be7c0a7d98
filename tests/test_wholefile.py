"""The file that a whole model is in: any age and kind of it is read, and nothing in it is run."""

import argparse
import codecs
import os
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detsd import pickles
from detsd.adapters import write_adapter
from detsd.concepts import Concept, ConceptError, read_concepts, write_concepts
from detsd.pickled import PickleError
from detsd.torchfile import LARGEST_OF_A_MODEL, map_torch_file, read_torch_file
from tests.made_up import adapter
from tests.single_files import (
    Tensors,
    assert_refused,
    assert_same,
    load,
    with_mean_alone,
)
from tests.tiny_model import FAMILIES


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "from before archives"])
def test_a_ckpt_is_read_with_all_that_old_ones_have_beside_the_weights(
    models, originals, tmp_path, monkeypatch, legacy
):
    path = tmp_path / "model.ckpt"
    save_old(path, originals["sd1"], monkeypatch, legacy)
    content = path.read_bytes()
    for name in (b"ModelCheckpoint", b"multiarray", b"_codecs"):
        assert name in content
    assert_same(load(path, models["sd1"]), load(models["sd1"], None))


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_model_is_not_the_files_memory(models, originals, tmp_path, save):
    path = tmp_path / "model"
    save(originals["sd1"], path)
    found, content = load(path, models["sd1"]), path.read_bytes()
    found.unet.conv_in.weight.data.zero_()
    assert path.read_bytes() == content
    with path.open("r+b") as file:
        file.write(bytes(len(content)))
    assert found.unet.conv_out.weight.any()


def save_old(path: Path, content: Tensors, monkeypatch: Any, legacy: bool, **more: Any) -> None:
    """Write as the trainer of the first models did, what it noted of the training with it."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    kind = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = kind  # type: ignore[attr-defined]
    for package in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, package, module)
    noted = {
        "epoch": 3,
        "global_step": 470000,
        "callbacks": {kind: {"best_model_score": np.float64(0.5), "monitor": None}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{}]}],
        "lr_schedulers": [{"base_lrs": [1.0], "last_epoch": 3}],
        **more,
    }
    whole = {**noted, "state_dict": OrderedDict(content)}
    torch.save(whole, path, _use_new_zipfile_serialization=not legacy)
    if legacy:  # what numpy called its own module before it was numpy 2
        data = path.read_bytes()
        path.write_bytes(data.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))


def test_an_unwrapped_ckpt_is_read(models, originals, tmp_path):
    torch.save(originals["sdxl"], tmp_path / "model.ckpt")
    assert_same(load(tmp_path / "model.ckpt", models["sdxl"]), load(models["sdxl"], None))


class Trap:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["callbacks", "state_dict", "in the arguments of what is inert"])
def test_a_malicious_ckpt_is_refused_and_not_executed(
    models, originals, tmp_path, monkeypatch, legacy, place
):
    trap, path = Trap(tmp_path / "trapped"), tmp_path / "model.ckpt"
    if place == "callbacks":
        save_old(path, originals["sd1"], monkeypatch, legacy, hyper_parameters=trap)
    elif place == "state_dict":
        save_old(path, {**originals["sd1"], "trap": trap}, monkeypatch, legacy)
    else:
        inert = type("Inert", (), {"__reduce__": lambda self: (codecs.encode, (trap, "latin1"))})()
        save_old(path, originals["sd1"], monkeypatch, legacy, more=inert)
    assert_refused(path, models["sd1"], r"posix mkdir.*only tensors and plain values are read")
    assert not trap.target.exists()


def test_what_trainers_note_beside_the_weights_is_passed_over(models, originals, tmp_path):
    notes = {
        "arguments": argparse.Namespace(epochs=3, folder=Path("a/b/c/d/e/f/g/h/i/j")),
        "seen": defaultdict(list, a=[1, 2]),
        "last": {-1: 0.5},
        "kinds": [torch.float16, torch.Size([1, 2]), torch.device("cpu")],
    }
    torch.save({"state_dict": originals["sd1"], **notes}, tmp_path / "model.ckpt")
    assert_same(load(tmp_path / "model.ckpt", models["sd1"]), load(models["sd1"], None))


def test_what_is_skipped_in_a_model_is_refused_in_a_concept(tmp_path, monkeypatch, originals):
    save_old(tmp_path / "model.ckpt", originals["sd1"], monkeypatch, legacy=False)
    with pytest.raises(ConceptError, match="wants .*ModelCheckpoint to be run"):
        read_concepts(tmp_path / "model.ckpt")


def test_a_models_instructions_may_be_long_and_not_endless(tmp_path):
    path = tmp_path / "model.ckpt"
    long = {"state_dict": {"a": torch.ones(2)}, "note": "x" * (pickles.LARGEST + 1)}
    for legacy in (False, True):
        torch.save(long, path, _use_new_zipfile_serialization=not legacy)
        assert torch.equal(map_torch_file(path, ())["state_dict"]["a"], torch.ones(2))
        with pytest.raises(PickleError):
            read_torch_file(path)
    torch.save({**long, "note": "x" * LARGEST_OF_A_MODEL}, path)
    with pytest.raises(PickleError, match="bytes in model/data.pkl, where at most"):
        map_torch_file(path, ())


def test_the_tensors_of_a_large_file_are_not_held_in_memory(tmp_path):
    path, count = tmp_path / "model.ckpt", 1 << 24
    torch.save({"a": torch.ones(count)}, path)
    before = own_memory()
    found = map_torch_file(path, ())
    assert own_memory() - before < count  # of 4 × count bytes
    assert float(found["a"].sum()) == count


def own_memory() -> int:
    """Return the bytes that this process has and no file."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line
    )
    return 1024 * int(line.split()[1])


def test_numbers_that_are_not_those_that_were_written_are_refused(tmp_path, models, originals):
    path = tmp_path / "model.ckpt"
    torch.save(originals["sd1"], path)
    data = bytearray(path.read_bytes())
    weight = originals["sd1"]["model.diffusion_model.out.2.weight"].numpy().tobytes()
    data[data.index(weight) + 5] ^= 1
    path.write_bytes(data)
    assert_refused(path, models["sd1"], "is damaged: model/data/.* is not as it was written")


@pytest.mark.parametrize("kind", ["safetensors", "archive", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.00001, 0.1, 0.999])
def test_a_truncated_file_is_refused_in_a_line(models, originals, tmp_path, kind, share):
    path = tmp_path / "model.ckpt"
    if kind == "safetensors":
        save_file(originals["sd1"], path)
    else:
        torch.save(originals["sd1"], path, _use_new_zipfile_serialization=kind == "archive")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert_refused(path, models["sd1"], "is damaged")


def test_the_running_mean_counts_where_there_is_nothing_else(models, originals, write_single):
    for family in FAMILIES:
        none = {key: None for key in originals[family] if key.startswith("model.diffusion_model.")}
        alone = with_mean_alone(originals[family])
        assert len(alone) == len(originals[family]) and not alone.keys() & none.keys()
        mean = load(write_single(family, {**none, **alone}), models[family])
        assert_same(mean, load(models[family], None))
    others = {
        key: torch.zeros_like(one)
        for key, one in with_mean_alone(originals["sd1"]).items()
        if key.startswith("model_ema.")
    }
    path = write_single("sd1", {**others, "model_ema.decay": torch.ones(())})
    assert_same(load(path, models["sd1"]), load(models["sd1"], None))


@pytest.mark.parametrize("start", ["first_stage_model.", "cond_stage_model."])
def test_a_file_without_all_parts_is_refused_in_a_line(models, originals, write_single, start):
    path = write_single("sd1", {key: None for key in originals["sd1"] if key.startswith(start)})
    assert_refused(path, models["sd1"], f"holds no .*{start}.* a whole model is wanted")


def test_what_is_no_model_is_called_what_it_is(models, tmp_path):
    model = load(models["sd1"], None)
    write_adapter(tmp_path / "style.safetensors", adapter(model, words="attn1"))
    write_concepts(tmp_path, [Concept("det-logo", {"clip_l": torch.ones(2, 32)})])
    wanted = "name the model it was made for"
    assert_refused(tmp_path / "style.safetensors", models["sd1"], f"is an adapter: {wanted}")
    for name in ("det-logo.safetensors", "learned_embeddings_dict.pt"):
        assert_refused(tmp_path / name, models["sd1"], f"is a concept: {wanted}")
    part = models["sd1"] / "unet" / "diffusion_pytorch_model.safetensors"
    assert_refused(part, models["sd1"], "in diffusers' layout: name the folder")
    save_file(
        {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(4)}, tmp_path / "other.safetensors"
    )
    assert_refused(tmp_path / "other.safetensors", models["sd1"], "holds no UNet")
    (tmp_path / "text.ckpt").write_text("no model at all, but a page of text")
    assert_refused(tmp_path / "text.ckpt", models["sd1"], "is neither a safetensors file nor one")
