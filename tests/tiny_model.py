"""Tiny Stable Diffusion models with random weights: every real class, ready in a second."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    "a an the of in on with and photo picture painting drawing style brain logo sharp lines "
    "connected circles concept art watercolor textured paper soft strokes pastel colors"
)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FAMILIES = ("sd1", "sd2", "sdxl")


def build(folder: Path, family: str = "sd1", *, sample_size: int = 8, seed: int = 0) -> Path:
    """Write a model in diffusers' layout into `folder`, and return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl}[family](sample_size)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return folder


def _sd1(sample_size: int) -> Any:
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(32)),
        tokenizer=_tokenizer(),
        unet=_unet(sample_size, cross_attention_dim=32, attention_head_dim=4),
        scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
        **_no_safety_checker(),
    )


def _sd2(sample_size: int) -> Any:
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(48, hidden_act="gelu")),
        tokenizer=_tokenizer(pad="!"),
        unet=_unet(
            sample_size,
            cross_attention_dim=48,
            attention_head_dim=[2, 4],
            use_linear_projection=True,
        ),
        scheduler=DDIMScheduler(
            **BETAS, prediction_type="v_prediction", clip_sample=False, steps_offset=1
        ),
        **_no_safety_checker(),
    )


def _sdxl(sample_size: int) -> Any:
    return StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_text_config(32)),
        # The wrong id of the published config, which pooling must not be misled by.
        text_encoder_2=CLIPTextModelWithProjection(
            _text_config(48, hidden_act="gelu", eos_token_id=2, projection_dim=48)
        ),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(pad="!"),
        unet=_unet(
            sample_size,
            cross_attention_dim=32 + 48,
            attention_head_dim=[2, 4],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 48,
        ),
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1),
        add_watermarker=False,
    )


def _no_safety_checker() -> dict[str, Any]:
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def _vae(scaling_factor: float = 0.18215) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
        scaling_factor=scaling_factor,
    )


def _unet(sample_size: int, **arguments: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **arguments,
    )


def _text_config(width: int, **arguments: Any) -> CLIPTextConfig:
    size = len(_vocabulary(WORDS.split())[0])
    ids = {"bos_token_id": size - 2, "eos_token_id": size - 1}
    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        **{**ids, **arguments},
    )


def _tokenizer(pad: str = END) -> CLIPTokenizer:
    vocabulary, merges = _vocabulary(WORDS.split())
    return CLIPTokenizer(vocabulary, merges, pad_token=pad, model_max_length=77)


def _vocabulary(words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges[parts[0], parts[1]] = None
            parts = [parts[0] + parts[1], *parts[2:]]
    tokens += dict.fromkeys(left + right for left, right in merges)
    return {token: place for place, token in enumerate([*tokens, START, END])}, list(merges)
