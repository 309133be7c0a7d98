"""The denoising loop: the requests of a batch become latents."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from detsd import schedulers
from detsd.model import StableDiffusion
from detsd.request import Adapters, Request, Settings
from detsd.text import Conditioning

Tick = Callable[[float], Any]

PROMPTS_KEPT = 256


class Prompts:
    """What the encoders make of prompts; that of the last ones is kept."""

    def __init__(self, model: StableDiffusion):
        self._model = model
        self._adapters: Adapters = None
        self._kept: dict[tuple[Adapters, str | None], Conditioning] = {}

    def use(self, adapters: Adapters) -> None:
        """Let these adapters count, which may change what the encoders make of a prompt."""
        if adapters is not None:
            self._model.use_adapters(adapters)
            self._adapters = adapters

    def encode(self, texts: Sequence[str | None]) -> Conditioning:
        """Return a row a text; that of None is what guidance leads away from by default."""
        missing = {text for text in texts if (self._adapters, text) not in self._kept}
        if len(self._kept) + len(missing) > PROMPTS_KEPT:
            self._kept.clear()
            missing = set(texts)
        self._add(sorted(text for text in missing if text is not None))
        if None in missing:
            self._kept[self._adapters, None] = self._model.encode_nothing(1)
        rows = [self._kept[self._adapters, text] for text in texts]
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return Conditioning(
            torch.cat([row.states for row in rows]), torch.cat(pooled) if pooled else None
        )

    def _add(self, texts: Sequence[str]) -> None:
        if texts:
            made = self._model.encode_prompts(texts)
            for place, text in enumerate(texts):
                self._kept[self._adapters, text] = made.at(
                    torch.tensor([place], device=self._model.device)
                )


@torch.no_grad()
def denoise(
    model: StableDiffusion,
    requests: Sequence[Request],
    prompts: Prompts,
    tick: Tick = lambda images: None,
) -> torch.Tensor:
    """Return the latents of images that share their settings and are all guided, or none is."""
    settings, guided = requests[0].settings, requests[0].guided
    # A new scheduler a batch: some keep what they saw in the last one. It stays on the CPU, where
    # looking up the numbers of a step does not wait for the device.
    scheduler = build_scheduler(model, settings)
    scheduler.set_timesteps(settings.steps)
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    extra = schedulers.step_arguments(settings.scheduler, settings.scheduler_kwargs)
    if schedulers.draws_noise(scheduler):
        extra["generator"] = generators
    prompts.use(settings.adapters)
    conditioning = _conditioning(requests, prompts, model.dtype)
    width, height = size(model, settings)
    origin = torch.tensor([[height, width, 0, 0]], device=model.device)
    origins = origin.expand(len(conditioning.states), 4)
    scales = torch.tensor([request.guidance for request in requests], device=model.device)
    scales = scales.view(-1, 1, 1, 1)
    latents = _noise(model, settings, generators) * float(scheduler.init_noise_sigma)
    timesteps = scheduler.timesteps.to(model.device)
    for timestep, on_device in zip(scheduler.timesteps, timesteps, strict=True):
        noisy = scheduler.scale_model_input(latents, timestep)
        noisy = torch.cat([noisy, noisy]) if guided else noisy
        prediction = model.predict(noisy, on_device, conditioning, origins).float()
        if guided:
            with_prompt, without = prediction.chunk(2)
            prediction = without + scales * (with_prompt - without)
        latents = scheduler.step(prediction, timestep, latents, **extra, return_dict=False)[0]
        tick(len(requests) / len(timesteps))
    return latents  # (images, 4, height / 8, width / 8)


def build_scheduler(model: StableDiffusion, settings: Settings) -> Any:
    """Return the scheduler, set up as the model's own is where the settings do not say."""
    return schedulers.build(settings.scheduler, settings.scheduler_kwargs, model.scheduler_config)


def size(model: StableDiffusion, settings: Settings) -> tuple[int, int]:
    """Return the width and height of the images."""
    return settings.size or (model.size, model.size)


def _conditioning(
    requests: Sequence[Request], prompts: Prompts, dtype: torch.dtype
) -> Conditioning:
    made = prompts.encode([request.prompt for request in requests])
    if requests[0].guided:
        # An empty one is none at all: to SDXL the two are not the same.
        made = made.followed_by(prompts.encode([one.negative_prompt or None for one in requests]))
    return Conditioning(made.states.to(dtype), made.pooled)


def _noise(
    model: StableDiffusion, settings: Settings, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    width, height = size(model, settings)
    shape = (4, height // model.vae_factor, width // model.vae_factor)
    # On the CPU, and each image's own: it depends on its seed, not on its neighbours or device,
    # and diffusers makes the same one of torch.Generator().manual_seed(seed).
    rows = [torch.randn(shape, generator=generator) for generator in generators]
    return torch.stack(rows).to(model.device)
