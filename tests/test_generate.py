"""Images: the same ones as diffusers makes, from concepts in files, for old notebooks too."""

import numpy as np
import pytest
import torch
from PIL import Image

import detsd
from detsd.concepts import ConceptError
from detsd.config import ConfigError
from detsd.config.inference import SCHEDULER_DEFAULTS
from detsd.sampler import SCHEDULERS, Request, Settings, build_scheduler, check_scheduler, denoise
from tests.trials import last, run


@pytest.fixture
def trained(tmp_path, hparams):
    """A checkpoint with the concept det-logo."""
    return last(run(tmp_path / "run", hparams))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_latents_are_those_of_diffusers_own_loop(load, family, name, guidance):
    model = load(family)
    settings = Settings(name, SCHEDULER_DEFAULTS[name], 5)
    ours = denoise(model, [Request("a photo", 3, guidance)], settings)
    pipeline = model.pipeline(build_scheduler(model, settings))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a photo",
        guidance_scale=guidance,
        num_inference_steps=5,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_an_image_depends_on_its_own_request_only(load):
    model = load("sd1")
    settings = Settings("pndm", {"skip_prk_steps": True}, 4)
    requests = [Request("a photo", 1, 7.5), Request("art", 2, 3.0), Request("paper", 3, 1.0)]
    together = denoise(model, requests, settings)
    for request, latents in zip(requests, together, strict=True):
        assert torch.allclose(denoise(model, [request], settings)[0], latents, atol=1e-5)


def test_a_pipeline_draws_a_trained_concept(models, trained):
    pipeline = detsd.load_pipeline(models["sd1"], concepts=[trained])
    assert list(pipeline.concepts) == ["det-logo"]
    images = pipeline("a photo of a det-logo", seed=1, count=2, steps=3)
    assert [type(image) for image in images] == [Image.Image] * 2
    assert images[0].size == (16, 16)
    again = pipeline(["a photo of a det-logo", "a wall"], seed=2, steps=3)
    assert np.array_equal(images[1], again[0])
    assert not np.array_equal(again[0], again[1])


def test_the_earlier_class_still_works(models, trained):
    pipeline = detsd.DetSDTextualInversionPipeline(
        pretrained_model_name_or_path=str(models["sd1"]), device="cpu", disable_progress_bar=True
    )
    pipeline.load_from_checkpoint_dir(trained)
    assert pipeline.all_added_concepts == ["det-logo"]
    output = pipeline(prompt="a photo of a det-logo", num_inference_steps=3)
    assert output.images[0].size == (16, 16)
    assert output.nsfw_content_detected is None
    with pytest.raises(ConceptError, match="was added before"):
        pipeline.load_from_checkpoint_dir(trained / "export")


def test_the_trainer_of_the_earlier_example_is_there():
    assert callable(detsd.DetSDTextualInversionTrainer.train_on_cluster)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = detsd.Nothing


def test_an_argument_that_a_scheduler_lacks_is_refused():
    with pytest.raises(ConfigError, match="inference.x.skip_prk: pndm has no such argument"):
        check_scheduler(Settings("pndm", {"skip_prk": True}, 5), "inference.x")
