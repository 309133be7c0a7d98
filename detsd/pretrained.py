"""A model from a folder, a file or the hub; what differs between the families is settled here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from detsd.attention import attend_in_full
from detsd.checkpoints import find_model
from detsd.config import ModelConfig
from detsd.embeddings import ENCODERS
from detsd.frozen import lighten
from detsd.model import StableDiffusion
from detsd.reason import reason
from detsd.singlefile import MisfitError, SingleFile, check_channels
from detsd.text import PromptEncoder, TextEncoder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ModelError(ValueError):
    """A model that cannot be loaded, or is none that can be taught here."""


def load_model(
    config: ModelConfig,
    device: torch.device,
    *,
    precision: str = "fp32",
    channels_last: bool = False,
    forward_process: Mapping[str, Any] | None = None,
    token: str | bool | None = None,
) -> StableDiffusion:
    """Load a model from a folder, a single file, the hub or a checkpoint that holds a whole one.

    With `channels_last` the weights lie as a GPU's convolutions are fastest, and cannot be written;
    a CPU's UNet gains nothing by it, and ends in other last bits.
    """
    dtype, source = DTYPES[precision], {"revision": config.revision, "token": token}
    configs = ""
    try:
        parts = _open(config, source)
        configs = parts.configs
        unet = parts.unet(dtype)
        _refuse_other_models(config, unet)
        # Always in fp32: it runs once a picture, and half precision would show in every latent.
        vae = parts.vae(torch.float32)
        suffixes = ("", "_2") if unet.config.addition_embed_type == "text_time" else ("",)
        encoders = [
            _load_encoder(parts, suffix, key, dtype, source)
            for suffix, key in zip(suffixes, ENCODERS, strict=False)
        ]
        scheduler = DDPMScheduler.load_config(configs, subfolder="scheduler", **source)
        of_pair = len(suffixes) > 1
        index = diffusers.DiffusionPipeline.load_config(configs, **source) if of_pair else {}
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(_say_what_failed(config, configs, error)) from error
    for module in (unet, vae, *(encoder.module for encoder in encoders)):
        module.requires_grad_(False).eval()
    for module in (unet, *(encoder.module for encoder in encoders)):
        module.to(device)
    if device.type == "cpu" and dtype != torch.float16:
        quicken = lighten if dtype == torch.float32 else attend_in_full
        for module in (unet, *(encoder.module for encoder in encoders)):
            quicken(module)
    if channels_last:
        for module in (unet, vae):
            module.to(memory_format=torch.channels_last)
    return StableDiffusion(
        unet=unet,
        vae=vae,
        text=PromptEncoder(encoders, device),
        # A list of betas in the model's config would win over what is asked for here.
        scheduler_config={
            **scheduler,
            **parts.forward_process,
            **({"trained_betas": None, **forward_process} if forward_process else {}),
        },
        device=device,
        zeroes_empty_prompt=index.get("force_zeros_for_empty_prompt", of_pair),
    )


class _Folder:
    """Weights beside their configs, in a folder or on the hub."""

    forward_process: Mapping[str, Any] = {}

    def __init__(self, name: str, variant: str | None, source: Mapping[str, Any]):
        self.configs = name
        self._source = {**source, "variant": variant}

    def unet(self, dtype: torch.dtype) -> Any:
        """Return the UNet."""
        return UNet2DConditionModel.from_pretrained(
            self.configs, subfolder="unet", torch_dtype=dtype, **self._source
        )

    def vae(self, dtype: torch.dtype) -> Any:
        """Return the VAE."""
        return AutoencoderKL.from_pretrained(
            self.configs, subfolder="vae", torch_dtype=dtype, **self._source
        )

    def text_encoder(self, kind: Any, part: str, config: Any, dtype: torch.dtype) -> Any:
        """Return the text encoder of that name, of that class."""
        return kind.from_pretrained(
            self.configs, subfolder=part, config=config, dtype=dtype, **self._source
        )


def _open(config: ModelConfig, source: Mapping[str, Any]) -> _Folder | SingleFile:
    name = find_model(config.pretrained_model_name_or_path)
    if not Path(name).is_file():
        return _Folder(name, config.variant, source)
    configs = config.config_name_or_path
    return SingleFile(Path(name), configs and find_model(configs), source)


def _load_encoder(
    parts: _Folder | SingleFile, suffix: str, key: str, dtype: torch.dtype, source: dict[str, Any]
) -> TextEncoder:
    folder, name = f"text_encoder{suffix}", parts.configs
    tokenizer = CLIPTokenizer.from_pretrained(name, subfolder=f"tokenizer{suffix}", **source)
    config = CLIPTextConfig.from_pretrained(name, subfolder=folder, **source)
    _check_vocabulary(f"{name}: its tokenizer{suffix}", tokenizer, config.vocab_size)
    # With the id 2 of old configs the pooled state is that of the largest id: our placeholder's.
    config.eos_token_id = tokenizer.eos_token_id
    kind = CLIPTextModelWithProjection if suffix else CLIPTextModel
    return TextEncoder(key, tokenizer, parts.text_encoder(kind, folder, config, dtype))


def _check_vocabulary(what: str, tokenizer: Any, size: int) -> None:
    """Refuse a tokenizer whose files are not there, or another model's: it would say nothing."""
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise ModelError(f"{what} has no words: its vocab.json and merges.txt are wanted")
    if len(tokenizer) > size:
        raise ModelError(
            f"{what} has {len(tokenizer)} words, of which its text encoder knows {size}: another "
            "one is wanted"
        )


def _refuse_other_models(config: ModelConfig, unet: Any) -> None:
    name = find_model(config.pretrained_model_name_or_path)
    check_channels(name, unet.config.in_channels)
    if unet.config.time_cond_proj_dim is not None:
        built_in = "its UNet has guidance built in, as latent consistency models do"
        raise ModelError(f"{name}: {built_in}; one that is guided from outside is wanted")


def _say_what_failed(config: ModelConfig, configs: str, error: Exception) -> str:
    name = config.pretrained_model_name_or_path
    if isinstance(error, (ModelError, MisfitError)):
        return str(error)
    key, where = "model.pretrained_model_name_or_path", "as a folder here, or on the hub"
    if Path(name).is_file():
        key, for_file = "config_name_or_path", f"whose configs and tokenizer belong to {name}"
        said = "is not set, and " if config.config_name_or_path is None else ""
        return (
            f"{key}: {said}{configs} could not be loaded {where}: {reason(error)}; name a folder "
            f"or hub id {for_file}"
        )
    if Path(name).is_dir():
        where = "in that folder"
    return f"{key}: {name} could not be loaded {where}: {reason(error)}"
