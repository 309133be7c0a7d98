"""The denoising loop: prompts, seeds and scales become images, in batches."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler
from PIL import Image

from detsd.config import ConfigError
from detsd.model import StableDiffusion

SCHEDULERS = {
    "pndm": PNDMScheduler,
    "ddim": DDIMScheduler,
    "lms-discrete": LMSDiscreteScheduler,
}


class Request(NamedTuple):
    """One image to be made."""

    prompt: str
    seed: int
    guidance: float


class Settings(NamedTuple):
    """What the images of a batch share."""

    scheduler: str
    scheduler_kwargs: dict[str, Any]
    steps: int


def check_scheduler(
    settings: Settings, key: str, forward_process: Mapping[str, Any] | None = None
) -> None:
    """Refuse arguments that the scheduler does not take, before a model is loaded."""
    known = inspect.signature(SCHEDULERS[settings.scheduler].__init__).parameters
    unknown = sorted(set(settings.scheduler_kwargs) - set(known))
    if unknown:
        raise ConfigError(
            [f"{key}.{name}: {settings.scheduler} has no such argument" for name in unknown]
        )
    arguments = {**(forward_process or {}), **settings.scheduler_kwargs}
    try:
        SCHEDULERS[settings.scheduler](**arguments).set_timesteps(settings.steps)
    # Each scheduler refuses what it cannot use in its own way.
    except Exception as error:
        said = f"{settings.scheduler} cannot take {settings.steps} steps with {arguments}"
        raise ConfigError([f"{key}: {said} ({error})"]) from None


def generate(
    model: StableDiffusion, requests: Sequence[Request], settings: Settings, batch_size: int
) -> Iterator[Image.Image]:
    """Yield the images asked for, in order; the VAE is to be awake."""
    for start in range(0, len(requests), batch_size):
        latents = denoise(model, requests[start : start + batch_size], settings)
        for one in latents:
            yield to_image(model.decode_latents(one[None])[0])


@torch.no_grad()
def denoise(
    model: StableDiffusion, requests: Sequence[Request], settings: Settings
) -> torch.Tensor:
    """Return the latents of a batch of images."""
    # A new scheduler a batch: some keep what they saw in the last one.
    scheduler = build_scheduler(model, settings)
    scheduler.set_timesteps(settings.steps)
    wanted = model.encode_prompts([request.prompt for request in requests])
    conditioning = wanted.followed_by(model.encode_nothing(len(requests)))
    origins = torch.tensor([[model.size, model.size, 0, 0]], device=model.device)
    origins = origins.expand(2 * len(requests), 4)
    scales = torch.tensor([request.guidance for request in requests], device=model.device)
    scales = scales.clamp(min=1).view(-1, 1, 1, 1)  # 1 is the prompt alone, as diffusers has it
    latents = _noise(model, requests) * float(scheduler.init_noise_sigma)
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
        prediction = model.predict(noisy, timestep.to(model.device), conditioning, origins).float()
        with_prompt, without = prediction.chunk(2)
        guided = without + scales * (with_prompt - without)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents


def build_scheduler(model: StableDiffusion, settings: Settings) -> Any:
    """Return the scheduler, set up as the model's own is where the settings do not say."""
    config = {**model.scheduler_config, **settings.scheduler_kwargs}
    return SCHEDULERS[settings.scheduler].from_config(config)


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Return the picture of (3, height, width) pixels, -1…1."""
    levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def _noise(model: StableDiffusion, requests: Sequence[Request]) -> torch.Tensor:
    side = model.size // model.vae_factor
    # From a generator of its own, on the CPU: an image depends on its seed, not its neighbours,
    # and diffusers makes the same one of torch.Generator().manual_seed(seed).
    rows = [
        torch.randn((4, side, side), generator=torch.Generator().manual_seed(request.seed))
        for request in requests
    ]
    return torch.stack(rows).to(model.device)
