"""Stable Diffusion: encode images, encode prompts, predict; with concepts and adapters in it."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler
from torch import nn

from detsd import attachment
from detsd.adapters import Adapter
from detsd.concepts import Concept
from detsd.loss import Schedule
from detsd.sending import send
from detsd.text import Conditioning, PromptEncoder, TextEncoder


class StableDiffusion:
    """The parts of one model, and the concepts and adapters that were added to it."""

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text: PromptEncoder,
        scheduler_config: Mapping[str, Any],
        device: torch.device,
        zeroes_empty_prompt: bool = False,
    ):
        self.zeroes_empty_prompt = zeroes_empty_prompt
        self.unet = unet
        self.vae = vae
        self.text = text
        self.scheduler_config = dict(scheduler_config)
        self.device = device
        self.family = "sdxl" if len(text.encoders) == 2 else "sd"
        # Its from_config would import every scheduler that there is.
        known = self.scheduler_config.keys() & inspect.signature(DDPMScheduler).parameters
        scheduler = DDPMScheduler(**{key: self.scheduler_config[key] for key in known})
        self.schedule = Schedule(
            scheduler.alphas_cumprod.to(device), scheduler.config.prediction_type
        )
        self.vae_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.size = unet.config.sample_size * self.vae_factor

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's precision. To ask the UNet itself is to look through all of its modules."""
        dtype: torch.dtype = self.unet.conv_in.weight.dtype
        return dtype

    @property
    def modules(self) -> dict[str, Any]:
        """What can be learnt, by the names that folders and adapters have for it."""
        suffixes = ("text_encoder", "text_encoder_2")
        named = zip(suffixes, self.encoders, strict=False)
        return {"unet": self.unet, **{part: encoder.module for part, encoder in named}}

    @contextmanager
    def replaced(self, modules: Mapping[str, Any]) -> Iterator[None]:
        """Compute with other modules for as long as the context lasts."""
        before = self.modules
        self._take({**before, **modules})
        try:
            yield
        finally:
            self._take(before)

    @property
    def encoders(self) -> tuple[TextEncoder, ...]:
        """The text encoders, each with its tokenizer."""
        return self.text.encoders

    @property
    def concepts(self) -> Mapping[str, int]:
        """The concepts that prompts may name, and how many vectors each has."""
        return self.text.concepts

    def add_concept(self, concept: Concept) -> dict[str, nn.Parameter]:
        """Make the concept's word usable in prompts; return its rows by encoder."""
        return self.text.add_concept(concept)

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Put an adapter in, to be used under a name."""
        attachment.attach(self.modules, name, adapter)

    def use_adapters(self, weights: Sequence[tuple[str, float]]) -> None:
        """Let these adapters count, so much each, and no others."""
        attachment.use(self.modules, weights)

    @contextmanager
    def vae_awake(self) -> Iterator[None]:
        """Hold the VAE on the device; the rest of the time its memory is the training's."""
        place = self.vae.device  # the device itself, where it is awake for longer
        self.vae.to(self.device)
        try:
            yield
        finally:
            self.vae.to(place)

    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and std of the latents, scaled as the UNet takes them."""
        latents = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        shift, scale = self._latent_units()
        return (latents.mean.float() - shift) * scale, latents.std.float() * scale

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels, -1…1."""
        shift, scale = self._latent_units()
        return self.vae.decode((latents / scale + shift).to(self.vae.dtype)).sample.float()

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode the prompts, each distinct one once."""
        return self.text.encode(prompts)

    def encode_nothing(self, count: int) -> Conditioning:
        """Return what guidance leads away from: the empty prompt, or zeros where the model says."""
        empty = self.text.encode([""] * count)
        if not self.zeroes_empty_prompt:
            return empty
        pooled = empty.pooled
        return Conditioning(
            torch.zeros_like(empty.states), None if pooled is None else torch.zeros_like(pooled)
        )

    def emptied(self, prompts: Sequence[str], encoded: Conditioning) -> Conditioning:
        """Return the encoded prompts, empty ones as what guidance leads away from."""
        if all(prompts) or not self.zeroes_empty_prompt:
            return encoded
        told = send([bool(prompt) for prompt in prompts], self.device)
        pooled = encoded.pooled
        return Conditioning(
            encoded.states * told[:, None, None], None if pooled is None else pooled * told[:, None]
        )

    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        origins: torch.Tensor,
    ) -> torch.Tensor:
        """Return the UNet's prediction; `origins` (see images.Prepared) matter to SDXL only."""
        dtype = self.dtype
        added = None
        if conditioning.pooled is not None:
            side = [edge * self.vae_factor for edge in noisy.shape[-2:]]
            sizes = send(side, origins.device).expand(len(origins), 2)
            time_ids = torch.cat([origins, sizes], dim=1).to(dtype)
            added = {"text_embeds": conditioning.pooled.to(dtype), "time_ids": time_ids}
        return self.unet(
            noisy.to(dtype),
            timesteps,
            encoder_hidden_states=conditioning.states.to(dtype),
            added_cond_kwargs=added,
        ).sample

    def pipeline(self, scheduler: Any = None, *, concepts: bool = True) -> Any:
        """Return diffusers' own pipeline over these weights, with the concepts merged in or not."""
        if scheduler is None:
            kind = getattr(diffusers, self.scheduler_config.get("_class_name", "DDPMScheduler"))
            scheduler = kind.from_config(self.scheduler_config)
        parts: dict[str, Any] = {"vae": self.vae, "unet": self.unet, "scheduler": scheduler}
        encoders = self.text.plain(concepts=concepts)
        for encoder, suffix in zip(encoders, ("", "_2"), strict=False):
            parts[f"tokenizer{suffix}"] = encoder.tokenizer
            parts[f"text_encoder{suffix}"] = encoder.module
        # Diffusers' pipelines take seconds to import, and few runs need one.
        if self.family == "sdxl":
            return diffusers.StableDiffusionXLPipeline(
                **parts,
                add_watermarker=False,
                force_zeros_for_empty_prompt=self.zeroes_empty_prompt,
            )
        return diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )

    def _take(self, modules: Mapping[str, Any]) -> None:
        self.unet, *encoders = modules.values()
        self.text.encoders = tuple(
            encoder._replace(module=module)
            for encoder, module in zip(self.encoders, encoders, strict=True)
        )

    def _latent_units(self) -> tuple[float, float]:
        config = self.vae.config
        return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor
