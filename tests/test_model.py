"""The model: families, pooling, and the same prompt embedding here and in diffusers."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from detsd.concepts import Concept, ConceptError, read_concepts, write_concepts
from detsd.config import ModelConfig
from detsd.pretrained import ModelError, load_model

FAMILIES = ("sd1", "sd2", "sdxl")
NAMES = ("det-logo", "det-logo-demo")
PROMPTS = ("a photo of a det-logo", "det-logo-demo, in the style of art", "one det-logo-demo")


def made_up(model, name, count):
    widths = {e.key: e.module.config.hidden_size for e in model.encoders}
    draw = torch.Generator().manual_seed(len(name))
    return Concept(name, {k: torch.randn(count, w, generator=draw) for k, w in widths.items()})


def add_two(model):
    concepts = [made_up(model, NAMES[0], 3), made_up(model, NAMES[1], 2)]
    for concept in concepts:
        model.add_concept(concept)
    return concepts


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_means_the_same_in_training_generation_and_diffusers(
    load, models, family, tmp_path
):
    training = load(family)
    concepts = add_two(training)
    write_concepts(tmp_path, concepts)
    generation = load(family)
    for name in NAMES:
        (concept,) = read_concepts(tmp_path / f"{name}.safetensors")
        generation.add_concept(concept)
    theirs = load_in_diffusers(models[family], tmp_path)
    for prompt in PROMPTS:
        wanted = encode_in_diffusers(theirs, prompt)
        for model in (training, generation):
            got = model.encode_prompts([prompt])
            assert torch.equal(got.states, wanted[0])
            assert family != "sdxl" or torch.equal(got.pooled, wanted[1])


def load_in_diffusers(model: Path, folder: Path):
    if "text_encoder_2" not in {path.name for path in model.iterdir()}:
        pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
        for name in NAMES:
            pipeline.load_textual_inversion(folder / f"{name}.safetensors")
        return pipeline
    pipeline = StableDiffusionXLPipeline.from_pretrained(model, add_watermarker=False)
    # Diffusers leaves the published config's wrong id in place, and pools the wrong token.
    pipeline.text_encoder_2.config.eos_token_id = pipeline.tokenizer_2.eos_token_id
    for module in pipeline.text_encoder_2.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = pipeline.tokenizer_2.eos_token_id
    for name in NAMES:
        vectors = load_file(folder / f"{name}.safetensors")
        for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
            pipeline.load_textual_inversion(
                vectors[key],
                token=name,
                text_encoder=getattr(pipeline, f"text_encoder{suffix}"),
                tokenizer=getattr(pipeline, f"tokenizer{suffix}"),
            )
    return pipeline


def encode_in_diffusers(pipeline, prompt):
    with torch.no_grad():
        if isinstance(pipeline, StableDiffusionXLPipeline):
            states, _, pooled, _ = pipeline.encode_prompt(
                prompt, do_classifier_free_guidance=False, device="cpu"
            )
            return states, pooled
        return pipeline.encode_prompt(prompt, "cpu", 1, False)[0], None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_has_the_concepts_and_shares_the_weights(load, family, tmp_path):
    model = load(family)
    add_two(model)
    pipeline = model.pipeline()
    pieces = "a photo of a <det-logo:0> <det-logo:1> <det-logo:2>"
    wanted = model.encode_prompts(["a photo of a det-logo"]).states
    assert torch.equal(encode_in_diffusers(pipeline, pieces)[0], wanted)
    assert pipeline.unet is model.unet
    assert type(pipeline.text_encoder.get_input_embeddings()) is torch.nn.Embedding
    pipeline.save_pretrained(tmp_path)  # a plain model, for any other tool


def test_pooling_is_at_the_end_of_the_text_and_not_at_the_largest_id(load):
    model = load("sdxl")
    before = model.encode_prompts(["a photo"]).pooled
    add_two(model)
    assert model.encoders[1].module.config.eos_token_id == model.encoders[1].tokenizer.eos_token_id
    assert torch.equal(model.encode_prompts(["a photo"]).pooled, before)
    named, other = model.encode_prompts(["det-logo a photo", "det-logo a brain"]).pooled
    assert not torch.equal(named, other)  # what comes after the concept counts


@pytest.mark.parametrize(("family", "kind"), [("sd1", "epsilon"), ("sd2", "v_prediction")])
def test_the_forward_process_is_the_models_own_unless_the_config_says_so(load, family, kind):
    own = load(family).schedule
    assert own.prediction_type == kind
    assert len(own.alphas_cumprod) == 1000
    other = load(family, forward_process={"num_train_timesteps": 10, "beta_end": 0.02}).schedule
    wanted = DDIMScheduler(10, 0.00085, 0.02, "scaled_linear").alphas_cumprod
    assert torch.allclose(other.alphas_cumprod, wanted)


def test_latents_are_those_of_diffusers(load):
    model = load("sd1")
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    mean, std = model.encode_images(pixels)
    posterior = model.vae.encode(pixels).latent_dist
    assert torch.allclose(mean, posterior.mean * model.vae.config.scaling_factor)
    assert torch.allclose(std, posterior.std * model.vae.config.scaling_factor)
    decoded = model.vae.decode(posterior.mean).sample
    assert torch.allclose(model.decode_latents(mean), decoded, atol=1e-5)


def test_how_weights_lie_changes_no_more_than_last_bits(models):
    config = ModelConfig(pretrained_model_name_or_path=str(models["sd1"]))
    plain, last = (
        load_model(config, torch.device("cpu"), channels_last=there) for there in (False, True)
    )
    assert last.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    predictions = []
    for model in (plain, last):
        told = model.encode_prompts(["a logo", "a photo"])
        origins = torch.zeros(2, 4, dtype=torch.long)
        predictions.append(model.predict(noisy, torch.tensor([10, 900]), told, origins))
    torch.testing.assert_close(*predictions, rtol=1e-4, atol=1e-5)


def test_each_distinct_prompt_is_encoded_once(load, monkeypatch):
    model = load("sd1")
    seen = []
    model.encoders[0].module.register_forward_pre_hook(
        lambda _, inputs: seen.append(len(inputs[0]))
    )
    states = model.encode_prompts(["a", "b", "a", "a"]).states
    assert seen == [2]
    assert torch.equal(states[0], states[2])
    assert not torch.equal(states[0], states[1])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_an_empty_caption_is_what_guidance_leads_away_from(load, family):
    model = load(family)
    prompts = ["", "a logo", ""]
    found = model.emptied(prompts, model.encode_prompts(prompts))
    nothing, logo = model.encode_nothing(1), model.encode_prompts(["a logo"])
    for place, wanted in enumerate((nothing, logo, nothing)):
        torch.testing.assert_close(found.states[place], wanted.states[0])
        if wanted.pooled is not None:
            torch.testing.assert_close(found.pooled[place], wanted.pooled[0])
    assert bool(nothing.states.any()) is (family == "sd1")


def test_a_concept_of_another_base_model_is_refused(load):
    model, other = load("sd1"), load("sd2")
    with pytest.raises(ConceptError, match="width 48.*takes 32.*another base model"):
        model.add_concept(made_up(other, "det-logo", 2))
    with pytest.raises(ConceptError, match="clip_l and clip_g.*another base model"):
        model.add_concept(made_up(load("sdxl"), "det-logo", 2))


def test_a_long_prompt_is_cut_with_a_warning_that_shows_what_is_lost(load, caplog):
    model = load("sd1")
    model.encode_prompts(["a photo " * 40 + "brain"])
    assert "brain" in caplog.text


def test_a_folder_that_is_no_whole_model_is_refused_in_a_line(models, tmp_path):
    (tmp_path / "unet").mkdir()
    config = ModelConfig(pretrained_model_name_or_path=str(tmp_path))
    with pytest.raises(ModelError, match="could not be loaded in that folder") as caught:
        load_model(config, torch.device("cpu"))
    assert "\n" not in str(caught.value)
