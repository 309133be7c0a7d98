"""Someone else's model in a single file: the same model as its folder, and one clear error else."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from detsd import DetSDTextualInversionPipeline, fingerprint, load_pipeline
from detsd.config import ConfigError, ModelConfig, read
from detsd.grid import generate_grid
from detsd.imagestore import read_records
from detsd.model import StableDiffusion
from detsd.pretrained import ModelError
from tests.single_files import (
    assert_refused,
    assert_same,
    bare,
    load,
)
from tests.tiny_model import FAMILIES
from tests.trials import CLASS, last, run


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_model_of_its_folder(models, write_single, family):
    found, wanted = (load(write_single(family), models[family]), load(models[family], None))
    assert_same(found, wanted)
    assert found.scheduler_config == wanted.scheduler_config
    assert found.schedule.prediction_type == wanted.schedule.prediction_type
    assert (found.size, found.family) == (wanted.size, wanted.family)
    assert found.zeroes_empty_prompt == wanted.zeroes_empty_prompt
    for module in wanted.modules.values():
        for value in module.parameters():  # last bits depend on where in memory a weight begins
            value.data = value.data.clone()
    one, other = (model.encode_prompts(["a photo of a brain"]) for model in (found, wanted))
    assert torch.equal(one.states, other.states)
    assert other.pooled is None or torch.equal(one.pooled, other.pooled)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    origins = torch.tensor([[64, 64, 0, 0]])
    steps = torch.tensor([500])
    with torch.no_grad():
        drawn = [model.predict(noise, steps, one, origins) for model in (found, wanted)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_precision_is_the_one_that_is_asked_for(models, originals, write_single, family):
    exact = load(write_single(family), models[family], precision="fp16")
    assert_same(exact, load(models[family], None, precision="fp16"))
    assert {exact.unet.dtype, exact.vae.dtype} == {torch.float16, torch.float32}
    half = {key: one.half() for key, one in originals[family].items() if one.is_floating_point()}
    path = write_single(family, half, name="half.safetensors")
    assert_same(load(path, models[family], precision="fp16"), exact_in_half(models[family]))
    assert {one.dtype for one in load(path, models[family]).unet.parameters()} == {torch.float32}


def exact_in_half(folder: Path) -> StableDiffusion:
    model = load(folder, None, precision="fp16")
    model.vae.half().float()  # as the file has it
    return model


REFINER = "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias"
IN = "model.diffusion_model.input_blocks.0.0.weight"
V2 = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
PROBLEMS = {
    "holds two VAEs": {"vae.encoder.conv_in.weight": torch.ones(2)},
    "holds a UNet of more than 24 blocks": {
        f"model.diffusion_model.input_blocks.{number}.0.bias": torch.ones(0) for number in range(30)
    },
    "what diffusers calls edm; Stable": {"edm_vpred.sigma_max": torch.ones(())},
    r"its unet .*\(conv_out.bias is of torch.int8\)": {
        "model.diffusion_model.out.2.bias": torch.ones(4, dtype=torch.int8)
    },
    "its UNet takes 9 channels, as inpainting models do": {IN: torch.ones(32, 9, 3, 3)},
    "holds what diffusers calls xl_refiner; Stable Diffusion 1, 2 or XL is wanted": {
        REFINER: torch.ones(2)
    },
    "is none of Stable Diffusion 1, 2 or XL": {IN: None},
    "that is none of Stable Diffusion 1, 2 or XL": {IN: torch.ones(())},
    "holds what diffusers calls nothing; Stable Diffusion 1": {V2: torch.ones(())},
    r"its vae .*\(.*index.*\)": {
        "first_stage_model.encoder.mid.attn_1.q.weight": torch.ones(2, 2, 0, 0)
    },
    r"its unet .*\(conv_out.weight is missing\); name a .* in config_name_or_path": {
        "model.diffusion_model.out.2.weight": None
    },
    r"its unet .*\(there is no place for model.diffusion_model.time_embed.cond_proj.weight\)": {
        "model.diffusion_model.time_embed.cond_proj.weight": torch.ones(2)
    },
    r"its vae .*\(encoder.conv_in.weight: found \(2, 2\), wanted \(16, 3, 3, 3\)\)": {
        "first_stage_model.encoder.conv_in.weight": torch.ones(2, 2)
    },
    r"its text_encoder .*final_layer_norm.bias is missing\)": {
        "cond_stage_model.transformer.text_model.final_layer_norm.bias": None
    },
}


@pytest.mark.parametrize("said", PROBLEMS)
def test_a_file_of_another_kind_is_refused_in_a_line(models, write_single, said):
    assert_refused(write_single("sd1", PROBLEMS[said]), models["sd1"], said)


def test_what_the_file_says_of_its_predictions_counts(models, write_single):
    configs = models["sdxl"]
    assert load(write_single("sdxl"), configs).schedule.prediction_type == "epsilon"
    said = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    found = load(write_single("sdxl", said), configs)
    assert found.schedule.prediction_type == "v_prediction"
    assert float(found.schedule.alphas_cumprod[-1]) == 0.0
    assert not load(write_single("sdxl", {"v_pred": torch.empty(0)}), configs).scheduler_config.get(
        "rescale_betas_zero_snr"
    )


def test_a_tokenizer_that_is_not_there_or_anothers_is_refused(models, write_single, tmp_path):
    shutil.copytree(models["sd1"], tmp_path / "configs")
    for file in (tmp_path / "configs" / "tokenizer").iterdir():
        file.unlink()
    said = "its tokenizer has no words: its vocab.json"
    with pytest.raises(ModelError, match=f"{tmp_path / 'configs'}: {said}"):
        load(write_single(), tmp_path / "configs")
    assert_refused(tmp_path / "configs", None, said)
    text = tmp_path / "configs" / "text_encoder" / "config.json"
    shutil.copytree(
        models["sd1"] / "tokenizer", tmp_path / "configs" / "tokenizer", dirs_exist_ok=True
    )
    text.write_text(json.dumps({**json.loads(text.read_text()), "vocab_size": 100}))
    assert_refused(tmp_path / "configs", None, "words, of which its text encoder knows 100")


@pytest.mark.parametrize("pair", list(itertools.permutations(FAMILIES, 2)))
def test_configs_of_another_family_are_refused_in_a_line(models, write_single, pair):
    said = f"its unet is not the one that .*{pair[1]} describes .*in config_name_or_path"
    assert_refused(write_single(pair[0]), models[pair[1]], said)


@pytest.mark.filterwarnings("ignore:.*local_dir_use_symlinks")  # diffusers hands it on
def test_without_configs_the_error_says_which_are_meant(write_single, models, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    inferred = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    said = f"config_name_or_path: is not set, and {inferred} could not be loaded .* name a folder"
    assert_refused(write_single(), None, said)
    with pytest.raises(ModelError, match="config_name_or_path: some/where could not be loaded"):
        load(write_single(), Path("some/where"))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (("no.safetensors", None), "^pretrained_model_name_or_path: no such file"),
        (("./no.ckpt", None), "^pretrained_model_name_or_path: no such file"),
        (("{file}", "./no"), "^config_name_or_path: no such folder"),
        (("{file}", "{file}"), "^config_name_or_path: is a file; the folder, or the hub id, of a"),
        (("{file}", "{empty}"), r"^config_name_or_path: .* no model in .* \(no unet/ in it\)"),
        (("{folder}", "{folder}"), "^config_name_or_path: is for a single file, and .* is none"),
        (
            ("some/where", "{folder}"),
            "^config_name_or_path: is for a single file, and some/where is",
        ),
    ],
)
def test_names_are_checked_before_anything_is_loaded(write_single, models, tmp_path, named, said):
    (tmp_path / "empty").mkdir()
    places = {"file": write_single(), "folder": models["sd1"], "empty": tmp_path / "empty"}
    keys = ("pretrained_model_name_or_path", "config_name_or_path")
    given = zip(keys, (one and one.format(**places) for one in named), strict=True)
    with pytest.raises(ConfigError, match=said):
        read(ModelConfig, dict(given))


def test_a_model_is_known_by_its_file_wherever_that_lies(write_single, models, tmp_path):
    one = fingerprint.of_model(str(write_single()))
    shutil.copy(write_single(), tmp_path / "copy.safetensors")
    assert fingerprint.of_model(str(tmp_path / "copy.safetensors")) == one
    assert fingerprint.of_model(str(write_single("sd2"))) != one
    assert fingerprint.of_model(str(models["sd1"])) == fingerprint.of_folder(models["sd1"])
    assert fingerprint.of_model("some/where") == "some/where"


def test_a_file_that_cannot_be_read_is_an_error_in_a_line(write_single, models, monkeypatch):
    path = write_single()

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("detsd.singlefile.read_whole_file", refuse)  # the superuser reads it all
    assert_refused(path, models["sd1"], "Permission denied")


def test_a_file_is_found_in_a_home(models, write_single, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_single()
    assert_same(load(Path("~/model.safetensors"), models["sd1"]), load(models["sd1"], None))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_on_a_single_file_exports_a_whole_model(
    models, originals, tmp_path, make, cli, family
):
    torch.save({"state_dict": originals[family]}, tmp_path / "model.ckpt")
    hparams = make({"kind": "full"}, family=family, num_sgd_steps=2)
    straight = last(run(tmp_path / "straight", hparams, slots=1))
    hparams["model"] = {
        "pretrained_model_name_or_path": "model.ckpt",
        "config_name_or_path": str(models[family]),
    }
    job = {"resources": {"slots_per_trial": 1}, "hyperparameters": hparams}
    entry = "python3 -m determined.launch.torch_distributed python3 -m detsd.finetune"
    searcher = {"name": "single", "metric": "loss"}
    cli(str(cli.write({"entrypoint": entry, "searcher": searcher, **job})), "--out", "run")
    found, wanted = (
        load(last(folder), None) for folder in (tmp_path / "run", straight.parent.parent)
    )
    for part, module in found.modules.items():
        other = wanted.modules[part].state_dict()
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, other[name], rtol=0, atol=1e-4)
    before = originals[family]["model.diffusion_model.out.2.weight"]
    assert not torch.equal(found.unet.conv_out.weight, before)
    assert load_pipeline(last(tmp_path / "run"), device="cpu")("a brain", steps=2)


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_pipeline_of_a_single_file_draws_what_its_folder_does(models, originals, tmp_path, name):
    save = torch.save if name.endswith("ckpt") else save_file
    save(originals["sd2"], tmp_path / name)
    one = load_pipeline(tmp_path / name, config_name_or_path=models["sd2"], device="cpu")
    other = load_pipeline(models["sd2"], device="cpu")
    drawn = [np.asarray(each("a brain", steps=3)[0]).astype(int) for each in (one, other)]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1
    assert one.base == str(tmp_path / name)


def test_the_earlier_examples_class_takes_one(models, write_single):
    names = {"pretrained_model_name_or_path": str(write_single()), "device": "cpu"}
    configs = {"config_name_or_path": str(models["sd1"])}
    assert DetSDTextualInversionPipeline(**names, **configs).all_added_concepts == []
    with pytest.raises(ConfigError, match="no such file"):
        DetSDTextualInversionPipeline(pretrained_model_name_or_path="no.ckpt", device="cpu")


def test_a_grid_draws_with_a_single_file(models, write_single, tmp_path):
    sweep = {"prompt": "a brain", "steps": 2, "seed": [1, 2]}

    def drawn(folder: str, pipeline: dict[str, str]) -> list[dict[str, Any]]:
        grid = run(tmp_path / folder, {"pipeline": pipeline, "sweep": sweep}, generate_grid)
        return read_records(grid / "images.jsonl")

    file = {"pretrained_model_name_or_path": str(write_single())}
    configs = {"config_name_or_path": str(models["sd1"])}
    of_file = drawn("file", file | configs)
    of_folder = drawn("folder", {"pretrained_model_name_or_path": str(models["sd1"])})
    for one, other in zip(of_file, of_folder, strict=True):
        images = (tmp_path / "file" / one["file"], tmp_path / "folder" / other["file"])
        one_image, other_image = (np.asarray(Image.open(path)).astype(int) for path in images)
        assert np.abs(one_image - other_image).max() <= 1
    assert {one["configs"] for one in of_file} == {str(models["sd1"])}
    assert not any("configs" in one for one in of_folder)
    (tmp_path / "copy").symlink_to(models["sd1"])
    others = drawn("others", file | {"config_name_or_path": str(tmp_path / "copy")})
    assert {one["id"] for one in others}.isdisjoint(one["id"] for one in of_file)


def test_the_class_is_another_one_when_the_file_or_its_configs_are(
    models, originals, write_single, make, tmp_path
):
    def folders() -> int:
        hparams = make({"kind": "lora"}, CLASS, num_sgd_steps=1)
        hparams["model"] = named
        run(tmp_path / f"run {count}", hparams)
        return len(list((tmp_path / "cache").iterdir()))

    own = tmp_path / "configs"
    shutil.copytree(models["sd1"], own)
    named = {"pretrained_model_name_or_path": str(write_single()), "config_name_or_path": str(own)}
    count = 0
    assert folders() == 1
    count += 1
    write_single("sd1", {key: 1.01 * one for key, one in originals["sd1"].items() if one.dim() > 1})
    assert folders() == 2
    count += 1
    config = json.loads((own / "vae" / "config.json").read_text())
    (own / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.2}))
    assert folders() == 3


def test_the_pipeline_folder_of_another_trainer_is_a_model(models, tmp_path):
    """As diffusers' DreamBooth script writes it: pickles, perhaps, and its own state beside."""
    first = load(models["sd1"], None)
    for module in first.modules.values():
        for value in module.parameters():
            value.data += 0.01
    folder = tmp_path / "dreambooth"
    first.pipeline().save_pretrained(folder, safe_serialization=False)
    written = folder / "text_encoder" / "model.safetensors"  # which transformers 5 insists on
    older = {f"text_model.{key}": one for key, one in bare(load_file(written)).items()}
    torch.save(older, folder / "text_encoder" / "pytorch_model.bin")
    written.unlink()
    assert not list(folder.rglob("*.safetensors"))
    (folder / "checkpoint-500" / "unet").mkdir(parents=True)
    (folder / "logs").mkdir()
    assert_same(load(folder, None), first)
