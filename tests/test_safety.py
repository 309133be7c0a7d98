"""The safety checker: what it finds is marked, and left as it is."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

import detsd
from detsd.pretrained import ModelError
from detsd.safety import load_safety_checker

CPU = torch.device("cpu")


@pytest.fixture
def careful(models, tmp_path):
    """A model that carries a checker which finds every image unsafe, or none."""

    def build(finds):
        folder = tmp_path / "careful"
        shutil.copytree(models["sd1"], folder)
        vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
        vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = CLIPConfig(vision_config=vision, projection_dim=8)
            checker = StableDiffusionSafetyChecker(config)
        # An image is found where it is more like a concept than this; no likeness is beyond 1.
        checker.concept_embeds_weights.data.fill_(-2.0 if finds else 2.0)
        checker.special_care_embeds_weights.data.fill_(2.0)
        checker.save_pretrained(folder / "safety_checker")
        processor = CLIPImageProcessor(size=32, crop_size=32)
        processor.save_pretrained(folder / "feature_extractor")
        index = json.loads((folder / "model_index.json").read_text())
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
        (folder / "model_index.json").write_text(json.dumps(index))
        return folder

    return build


@pytest.mark.parametrize("finds", [True, False])
def test_an_image_that_it_finds_is_marked_and_not_blackened(careful, models, finds, caplog):
    folder = careful(finds)
    (image,) = detsd.load_pipeline(folder)("a photo", steps=2)
    assert image.info.get("flags") == (["nsfw"] if finds else None)
    (without,) = detsd.load_pipeline(folder, safety=False)("a photo", steps=2)
    assert "flags" not in without.info
    assert np.array_equal(image, without)
    assert "black image" not in caplog.text


def test_the_earlier_class_marks_too(careful):
    pipeline = detsd.DetSDTextualInversionPipeline(
        pretrained_model_name_or_path=str(careful(True)), device="cpu", disable_progress_bar=True
    )
    output = pipeline(prompt=["a photo", "art"], num_inference_steps=2)
    assert output.nsfw_content_detected == [True, True]
    assert np.asarray(output.images[0]).max() > 0


def test_a_model_that_names_none_has_none(models, tmp_path):
    assert load_safety_checker(str(models["sd1"]), CPU) is None
    assert load_safety_checker(str(models["sdxl"]), CPU) is None
    assert load_safety_checker(str(tmp_path), CPU) is None  # no index, either


def test_one_that_is_named_and_not_there_is_an_error_with_a_way_out(careful):
    folder = careful(True)
    weights = folder / "safety_checker" / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop("visual_projection.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="its safety checker lacks visual_projection.weight"):
        detsd.load_pipeline(folder)
    shutil.rmtree(folder / "safety_checker")
    with pytest.raises(
        ModelError, match="cannot be loaded: .*; to draw without one, say"
    ) as caught:
        detsd.load_pipeline(folder)
    assert "\n" not in str(caught.value)
    assert detsd.load_pipeline(folder, safety=False)("a", steps=1)
