"""What a checkpoint holds: concepts, an adapter, a whole model; and what a person calls it."""

import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from determined.experimental import client
from safetensors.torch import save_file

from detsd import adapters, concepts, fetch
from detsd.adapters import write_adapter
from detsd.checkpoints import (
    CheckpointError,
    distinct,
    find_checkpoint,
    find_model,
    name_of,
    read_export,
)
from detsd.concepts import ConceptError, read_concepts, write_concepts
from detsd.config import ConfigError, GridConfig, read
from tests.made_up import adapter
from tests.test_model import made_up

UUID = "0f5bd5a2-7c1c-4a57-9d0e-2f6f3a1b6c55"


@pytest.fixture
def model(load):
    return load("sd1")


def whole(folder, model):
    """Write a checkpoint of a run that trained all weights."""
    model.pipeline().save_pretrained(folder / "export")
    return folder


def test_a_checkpoint_holds_concepts_or_an_adapter_or_both(tmp_path, model):
    concept, change = made_up(model, "det-logo", 2), adapter(model)
    write_concepts(tmp_path / "words" / "export", [concept])
    write_adapter(tmp_path / "change" / "export" / adapters.FILE, change)
    shutil.copytree(tmp_path / "words", tmp_path / "both")
    shutil.copytree(tmp_path / "change", tmp_path / "both", dirs_exist_ok=True)
    found = {name: read_export(tmp_path / name) for name in ("words", "change", "both")}
    names = {key: [one.name for one in export.concepts] for key, export in found.items()}
    assert names == {"words": ["det-logo"], "change": [], "both": ["det-logo"]}
    assert found["words"].adapter is None
    for key in ("change", "both"):
        layers = found[key].adapter.layers
        assert layers.keys() == change.layers.keys()
        assert all(torch.equal(layers[name].up, change.layers[name].up) for name in layers)
    assert concepts.ADAPTER_FILE == adapters.FILE
    assert read_export(tmp_path / "both" / "export").adapter is not None
    assert [one.name for one in read_concepts(tmp_path / "both")] == ["det-logo"]
    file = tmp_path / "both" / "export" / adapters.FILE
    assert read_export(file).adapter is not None and not read_export(file).concepts
    earlier = read_export(tmp_path / "both", concepts.EARLIER_FILE)
    assert [one.name for one in earlier.concepts] == ["det-logo"] and earlier.adapter


def test_a_file_is_known_by_what_is_in_it(tmp_path, model):
    write_adapter(tmp_path / "style.safetensors", adapter(model), layout="kohya")
    write_concepts(tmp_path, [made_up(model, "det-logo", 2)])
    assert read_export(tmp_path / "style.safetensors").adapter
    for name in ("det-logo.safetensors", concepts.EARLIER_FILE):
        (concept,) = read_export(tmp_path / name).concepts
        assert concept.name == "det-logo"
    save_file({"a": torch.ones(2), "clip_l": torch.ones(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(ConceptError, match="odd.safetensors: holds a, clip_l, which is no concept"):
        read_export(tmp_path / "odd.safetensors")


def test_where_a_concept_is_wanted_something_else_is_named(tmp_path, model):
    write_adapter(tmp_path / "export" / adapters.FILE, adapter(model))
    for path in (tmp_path, tmp_path / "export", tmp_path / "export" / adapters.FILE):
        with pytest.raises(ConceptError, match=f"{path}: holds no concept, but an adapter"):
            read_concepts(path)
    with pytest.raises(ConceptError, match="holds no concept, but a whole model"):
        read_concepts(whole(tmp_path / "all", model))


def test_a_whole_model_is_found_in_its_checkpoint(tmp_path, model, models, monkeypatch):
    folder = whole(tmp_path / "step-1", model)
    export = folder / "export"
    assert read_export(folder).model == read_export(export).model == export
    assert find_model(str(folder)) == find_model(str(export)) == str(export)
    assert find_model(str(models["sd1"])) == str(models["sd1"])
    assert find_model("CompVis/stable-diffusion-v1-4") == "CompVis/stable-diffusion-v1-4"
    for name in (folder, export):  # and a YAML may name it
        named = {"pretrained_model_name_or_path": str(name)}
        read(GridConfig, {"pipeline": named, "sweep": {"prompt": "a"}})
    monkeypatch.setattr("detsd.checkpoints.fetch_checkpoint", {UUID: folder}.get)
    monkeypatch.chdir(tmp_path)
    assert find_model(UUID) == str(export)


def test_an_adapter_is_no_model(tmp_path, model, monkeypatch):
    write_adapter(tmp_path / "export" / adapters.FILE, adapter(model))
    monkeypatch.setattr("detsd.checkpoints.fetch_checkpoint", lambda uuid: tmp_path)
    with pytest.raises(CheckpointError, match=f"{UUID} holds no whole model: name the one"):
        find_model(UUID)
    with pytest.raises(ConfigError, match="holds no model in diffusers' layout"):
        named = {"pretrained_model_name_or_path": str(tmp_path)}
        read(GridConfig, {"pipeline": named, "sweep": {"prompt": "a"}})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("runs/dreambooth_lora/checkpoints/step-000500", "dreambooth_lora-step-000500"),
        ("runs/dreambooth_lora/checkpoints/step-000500/export/", "dreambooth_lora-step-000500"),
        (f"/a/step-000500/export/{adapters.FILE}", "a-step-000500"),
        (f"downloads/pixel art/{adapters.FILE}", "pixel art"),
        ("downloads/style.v2.safetensors", "style-v2"),
        ("train.safetensors", "train-adapter"),  # a name that torch has for something else
        (UUID, "0f5bd5a2"),
    ],
)
def test_an_adapter_has_a_name_that_a_person_knows_it_by(source, name, model):
    assert name_of(source) == name_of(Path(source)) == name
    model.add_adapter(name, adapter(model))
    model.use_adapters([(name, 1.0)])


def test_names_are_made_distinct():
    assert distinct("a", []) == "a"
    assert distinct("a", {"a": 1, "a-2": 1}) == "a-3"


def test_what_lies_here_comes_before_a_checkpoint_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(UUID).mkdir()
    assert find_checkpoint(UUID) == Path(UUID)
    with pytest.raises(ConceptError, match="no such file or folder, nor the UUID"):
        find_checkpoint("no-such-folder")
    with pytest.raises(ConceptError, match="no such file or folder"):
        find_checkpoint("x" * 300)


def test_processes_that_want_the_same_checkpoint_download_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    downloads = []

    class Slow:
        def download(self, path):
            downloads.append(path)
            time.sleep(0.2)
            for part in ("export", "resume"):
                (Path(path) / part).mkdir(parents=True)

    monkeypatch.setattr(client, "get_checkpoint", lambda uuid: Slow())
    wanted = [threading.Thread(target=fetch.fetch_checkpoint, args=[UUID]) for _ in range(3)]
    for thread in wanted:
        thread.start()
    for thread in wanted:
        thread.join()
    assert len(downloads) == 1
    assert [path.name for path in fetch.fetch_checkpoint(UUID).iterdir()] == ["export"]
