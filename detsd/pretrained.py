"""A model from a folder or the hub; what differs between the families is settled here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from detsd.checkpoints import find_model
from detsd.config import ModelConfig
from detsd.embeddings import ENCODERS
from detsd.model import StableDiffusion
from detsd.reason import reason
from detsd.text import PromptEncoder, TextEncoder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ModelError(ValueError):
    """A model that cannot be loaded, or is none that can be taught here."""


def load_model(
    config: ModelConfig,
    device: torch.device,
    *,
    precision: str = "fp32",
    forward_process: Mapping[str, Any] | None = None,
    token: str | bool | None = None,
) -> StableDiffusion:
    """Load a model from a folder, the hub or a checkpoint that holds a whole one."""
    name, dtype = find_model(config.pretrained_model_name_or_path), DTYPES[precision]
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
        raise ModelError(_say_what_failed(config.pretrained_model_name_or_path, error)) from error
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
