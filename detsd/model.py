"""Stable Diffusion's frozen parts: load, encode images, encode prompts, predict."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from detsd.concepts import ENCODERS, Concept
from detsd.config import ModelConfig
from detsd.loss import Schedule
from detsd.reason import reason
from detsd.text import Conditioning, PromptEncoder, TextEncoder

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ModelError(ValueError):
    """A model that cannot be loaded, or is none that can be taught here."""


class StableDiffusion:
    """The frozen parts of one model, and the concepts that were added to it."""

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
        scheduler = DDPMScheduler.from_config(self.scheduler_config)
        self.schedule = Schedule(
            scheduler.alphas_cumprod.to(device), scheduler.config.prediction_type
        )
        self.vae_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.size = unet.config.sample_size * self.vae_factor

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

    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        origins: torch.Tensor,
    ) -> torch.Tensor:
        """Return the UNet's prediction; `origins` (see images.Prepared) matter to SDXL only."""
        added = None
        if conditioning.pooled is not None:
            side = [edge * self.vae_factor for edge in noisy.shape[-2:]]
            sizes = torch.tensor(side, device=origins.device).expand(len(origins), 2)
            time_ids = torch.cat([origins, sizes], dim=1).to(self.unet.dtype)
            added = {"text_embeds": conditioning.pooled.to(self.unet.dtype), "time_ids": time_ids}
        return self.unet(
            noisy.to(self.unet.dtype),
            timesteps,
            encoder_hidden_states=conditioning.states.to(self.unet.dtype),
            added_cond_kwargs=added,
        ).sample

    def pipeline(self, scheduler: Any = None) -> Any:
        """Return diffusers' own pipeline over these weights, with the concepts merged in."""
        if scheduler is None:
            kind = getattr(diffusers, self.scheduler_config.get("_class_name", "DDPMScheduler"))
            scheduler = kind.from_config(self.scheduler_config)
        parts: dict[str, Any] = {"vae": self.vae, "unet": self.unet, "scheduler": scheduler}
        for encoder, suffix in zip(self.text.merged(), ("", "_2"), strict=False):
            parts[f"tokenizer{suffix}"] = encoder.tokenizer
            parts[f"text_encoder{suffix}"] = encoder.module
        if self.family == "sdxl":
            return StableDiffusionXLPipeline(
                **parts,
                add_watermarker=False,
                force_zeros_for_empty_prompt=self.zeroes_empty_prompt,
            )
        return StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )

    def _latent_units(self) -> tuple[float, float]:
        config = self.vae.config
        return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor


def load_model(
    config: ModelConfig,
    device: torch.device,
    *,
    precision: str = "fp32",
    forward_process: Mapping[str, Any] | None = None,
    token: str | bool | None = None,
) -> StableDiffusion:
    """Load a model from a folder or the hub; what differs between families is settled here."""
    name, dtype = config.pretrained_model_name_or_path, DTYPES[precision]
    source = {"revision": config.revision, "token": token}
    weights = {**source, "variant": config.variant}
    try:
        unet = UNet2DConditionModel.from_pretrained(
            name, subfolder="unet", torch_dtype=dtype, **weights
        )
        _refuse_other_models(name, unet)
        # Always in fp32: it runs once a picture, and half precision would show in every latent.
        vae = AutoencoderKL.from_pretrained(
            name, subfolder="vae", torch_dtype=torch.float32, **weights
        )
        suffixes = ("", "_2") if unet.config.addition_embed_type == "text_time" else ("",)
        encoders = [
            _load_encoder(name, suffix, key, dtype, source, config.variant)
            for suffix, key in zip(suffixes, ENCODERS, strict=False)
        ]
        scheduler = DDPMScheduler.load_config(name, subfolder="scheduler", **source)
        index = DiffusionPipeline.load_config(name, **source) if len(suffixes) > 1 else {}
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(_say_what_failed(name, error)) from error
    for module in (unet, vae, *(encoder.module for encoder in encoders)):
        module.requires_grad_(False).eval()
    for module in (unet, *(encoder.module for encoder in encoders)):
        module.to(device)
    return StableDiffusion(
        unet=unet,
        vae=vae,
        text=PromptEncoder(encoders, device),
        # A list of betas in the model's config would win over what is asked for here.
        scheduler_config={
            **scheduler,
            **({"trained_betas": None, **forward_process} if forward_process else {}),
        },
        device=device,
        zeroes_empty_prompt=index.get("force_zeros_for_empty_prompt", len(suffixes) > 1),
    )


def _load_encoder(
    name: str,
    suffix: str,
    key: str,
    dtype: torch.dtype,
    source: dict[str, Any],
    variant: str | None,
) -> TextEncoder:
    folder = f"text_encoder{suffix}"
    tokenizer = CLIPTokenizer.from_pretrained(name, subfolder=f"tokenizer{suffix}", **source)
    config = CLIPTextConfig.from_pretrained(name, subfolder=folder, **source)
    # With the id 2 of old configs the pooled state is that of the largest id: our placeholder's.
    config.eos_token_id = tokenizer.eos_token_id
    kind = CLIPTextModelWithProjection if suffix else CLIPTextModel
    module = kind.from_pretrained(
        name, subfolder=folder, config=config, dtype=dtype, variant=variant, **source
    )
    return TextEncoder(key, tokenizer, module)


def _refuse_other_models(name: str, unet: Any) -> None:
    if unet.config.in_channels != 4:
        raise ModelError(
            f"{name}: its UNet takes {unet.config.in_channels} channels, as inpainting models do; "
            "a text-to-image model (4 channels) is wanted"
        )
    if unet.config.time_cond_proj_dim is not None:
        built_in = "its UNet has guidance built in, as latent consistency models do"
        raise ModelError(f"{name}: {built_in}; one that is guided from outside is wanted")


def _say_what_failed(name: str, error: Exception) -> str:
    if isinstance(error, ModelError):
        return str(error)
    where = "in that folder" if Path(name).is_dir() else "as a folder here, or on the hub"
    key = "model.pretrained_model_name_or_path"
    return f"{key}: {name} could not be loaded {where}: {reason(error)}"
