"""Schedulers: each one that is offered makes what diffusers makes with it."""

import inspect

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.schedulers import KarrasDiffusionSchedulers

from detsd.config import ConfigError, ModelConfig
from detsd.denoise import Prompts, denoise
from detsd.pretrained import load_model
from detsd.request import Request, Settings
from detsd.sampler import check_scheduler
from detsd.schedulers import SCHEDULERS, SchedulerError, build, check, known_scheduler
from tests.tiny_model import FAMILIES

# Diffusers' dpm-2 schedulers hand a tensor to numpy 2 in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")

STEPS = 5
# Prompt, negative prompt, seed, guidance: a batch of all that may differ in one.
MIXED = [
    ("a photo", "", 3, 5.0),
    ("concept art of a brain", "paper", 7, 2.5),
    ("a photo", "soft strokes", 1, 9.0),
]
NEEDS_TORCHSDE = {"DPMSolverSDEScheduler"}
FOR_EDM_MODELS = {"EDMEulerScheduler"}


@pytest.fixture(scope="module")
def fresh(models):
    """A model of each family, that nothing was added to."""
    return {
        family: load_model(
            ModelConfig(pretrained_model_name_or_path=str(models[family])), torch.device("cpu")
        )
        for family in FAMILIES
    }


@pytest.fixture(scope="module")
def theirs(models):
    """Return diffusers' own latents of a request: its pipeline, its way to set a scheduler."""
    pipelines = {}

    def draw(family, request):
        if family not in pipelines:
            xl = {"add_watermarker": False} if family == "sdxl" else {"safety_checker": None}
            kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
            pipelines[family] = kind.from_pretrained(models[family], **xl)
            pipelines[family].set_progress_bar_config(disable=True)
            pipelines[family].own = pipelines[family].scheduler.config
        pipeline = pipelines[family]
        kind, arguments = SCHEDULERS[request.settings.scheduler]
        given = {**arguments, **request.settings.scheduler_kwargs}
        eta = given.pop("eta", 0.0)
        pipeline.scheduler = getattr(diffusers, kind).from_config(pipeline.own, **given)
        return pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt or None,
            num_inference_steps=request.settings.steps,
            guidance_scale=request.guidance,
            eta=eta,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="latent",
        ).images

    return draw


def mixed(name, **arguments):
    settings = Settings(name, arguments, STEPS)
    return [Request(p, seed, scale, settings, negative) for p, negative, seed, scale in MIXED]


def apart(ours, wanted):
    """Return the largest difference, as a share of the largest value."""
    return float((ours - wanted).abs().max() / wanted.abs().max())


def compare(model, theirs, family, requests):
    together = denoise(model, requests, Prompts(model))
    for request, ours in zip(requests, together, strict=True):
        assert apart(ours[None], theirs(family, request)) < 1e-5
    alone = denoise(model, requests[:1], Prompts(model))
    assert apart(alone, theirs(family, requests[0])) < 1e-5


@pytest.mark.parametrize("family", ["sd1", "sd2"])  # epsilon and v_prediction
@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_makes_what_diffusers_makes(fresh, theirs, family, name):
    compare(fresh[family], theirs, family, mixed(name))


@pytest.mark.parametrize("name", ["pndm", "euler-ancestral", "dpm++-2m-sde-karras"])
def test_with_two_text_encoders_too(fresh, theirs, name):
    compare(fresh["sdxl"], theirs, "sdxl", mixed(name))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_without_guidance_too(fresh, theirs, family, scale):
    requests = [one._replace(guidance=scale) for one in mixed("euler-ancestral")]
    compare(fresh[family], theirs, family, requests)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ddim", {"eta": 1.0}),
        ("ddim", {"timestep_spacing": "trailing"}),
        ("dpm++-2m", {"solver_type": "heun", "final_sigmas_type": "sigma_min"}),
        ("euler", {"use_beta_sigmas": True}),
        ("pndm", {"skip_prk_steps": False}),
    ],
)
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_with_more_arguments_too(fresh, theirs, family, name, arguments):
    compare(fresh[family], theirs, family, mixed(name, **arguments))


def test_none_that_works_with_stable_diffusion_is_left_out():
    offered = {kind.class_name for kind in SCHEDULERS.values()}
    compatible = {kind.name for kind in KarrasDiffusionSchedulers}
    assert compatible - offered == NEEDS_TORCHSDE | FOR_EDM_MODELS


def test_what_a_scheduler_knows_of_the_models_own_is_taken_over():
    config = {"_class_name": "PNDMScheduler", "beta_end": 0.02, "skip_prk_steps": False, "x": 1}
    assert build("euler", {}, config).config.beta_end == 0.02
    assert build("pndm", {}, config).config.skip_prk_steps
    assert not build("pndm", {"skip_prk_steps": False}, config).config.skip_prk_steps
    default = inspect.signature(diffusers.EulerDiscreteScheduler).parameters["beta_start"].default
    assert build("euler", {}, config).config.beta_start == default


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("DPM++ 2M Karras", "dpm++-2m-karras"),
        ("euler_a", "euler-ancestral"),
        ("lms", "lms-discrete"),
        ("UniPCMultistepScheduler", "unipc"),
        ("dpm++_2s_krras", "dpm++-2s-karras"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_all(said, meant):
    with pytest.raises(SchedulerError) as caught:
        known_scheduler(said)
    assert f"is called {said}; did you mean {meant}? (pndm, ddim, " in str(caught.value)
    with pytest.raises(SchedulerError, match="is called x \\(pndm"):
        known_scheduler("x")


def test_an_argument_that_a_scheduler_lacks_is_refused():
    with pytest.raises(ConfigError, match="x: pndm has no such argument as skip_prk; did you mean"):
        check_scheduler(Settings("pndm", {"skip_prk": True}, 5), "x")
    with pytest.raises(SchedulerError, match="euler has no such argument as eta"):
        check("euler", {"eta": 1.0}, 5)
    check("ddim", {"eta": 1.0}, 5)


def test_steps_that_a_scheduler_cannot_take_are_refused_in_a_line():
    with pytest.raises(SchedulerError, match="lcm cannot take 60 steps with .*50") as caught:
        check("lcm", {}, 60)
    assert "\n" not in str(caught.value)
