"""Models as large as real ones, with random weights: how fast one is does not depend on them.

Where BENCHMARK_MODELS names a folder, they are kept there for the next benchmark.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

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

VOCABULARY = 49_408  # CLIP's
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DEMO = Path("demo/model")
WRITTEN = ".written"  # last of all: a model without it was cut off


class Size(NamedTuple):
    """A model's shape."""

    pixels: int  # of a picture's side
    unet: dict[str, Any]
    encoders: tuple[dict[str, Any], ...]
    vae: tuple[int, ...] = (128, 256, 512, 512)
    scheduler: Any = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)


CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
OPEN_CLIP_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
OPEN_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
SIZES = {
    # Stable Diffusion 1.x's text encoder before a UNet that two cores can train through.
    "clip": Size(
        pixels=256,
        unet={
            "sample_size": 32,
            "block_out_channels": (64, 128, 160),
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            "layers_per_block": 2,
            "attention_head_dim": 8,
            "norm_num_groups": 16,
            "cross_attention_dim": 768,
        },
        encoders=(CLIP_L,),
        vae=(32, 64, 64, 64),
    ),
    "sd1": Size(
        pixels=512,
        unet={
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
        },
        encoders=(CLIP_L,),
    ),
    "sd2": Size(
        pixels=768,
        unet={
            "sample_size": 96,
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        },
        encoders=(OPEN_CLIP_H,),
        scheduler=DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False),
    ),
    "sdxl": Size(
        pixels=1024,
        unet={
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        encoders=(CLIP_L, OPEN_CLIP_G),
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1),
    ),
}
NAMES = ("demo", *SIZES)


def pixels_of(name: str) -> int:
    """Return the side of the pictures that a model of that name is for."""
    return 64 if name == "demo" else SIZES[name].pixels


def folder_of(name: str, scratch: Path) -> Path:
    """Return a model's folder: the demo's, or one that is written now."""
    if name == "demo":
        return DEMO.absolute()
    folder = Path(os.environ.get("BENCHMARK_MODELS", scratch)) / name
    if not (folder / WRITTEN).exists():
        torch.manual_seed(0)
        pipeline = _pipeline(SIZES[name])
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(folder)
        (folder / WRITTEN).touch()
    return folder


def _pipeline(size: Size) -> Any:
    encoders = [_encoder(shape, place) for place, shape in enumerate(size.encoders)]
    parts: dict[str, Any] = {
        "vae": AutoencoderKL(
            block_out_channels=size.vae,
            down_block_types=("DownEncoderBlock2D",) * len(size.vae),
            up_block_types=("UpDecoderBlock2D",) * len(size.vae),
            layers_per_block=2 if size.vae[0] > 64 else 1,
            norm_num_groups=32,
            latent_channels=4,
        ),
        "unet": UNet2DConditionModel(**size.unet),
        "scheduler": size.scheduler,
        "tokenizer": _tokenizer(),
        "text_encoder": encoders[0],
    }
    if len(encoders) == 1:
        return StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    return StableDiffusionXLPipeline(
        **parts, text_encoder_2=encoders[1], tokenizer_2=_tokenizer(), add_watermarker=False
    )


def _encoder(shape: dict[str, Any], place: int) -> Any:
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=77,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        **shape,
    )
    return (CLIPTextModelWithProjection if place else CLIPTextModel)(config)


def _tokenizer() -> CLIPTokenizer:
    """Return one with as many words as CLIP's: those of letters, one of its own, and rare ones."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "lo", "log", "logo</w>"]
    merges = [("l", "o"), ("lo", "g"), ("log", "o</w>")]
    tokens += [f"rare{place}" for place in range(VOCABULARY - 2 - len(tokens))]
    vocabulary = [*tokens, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        {token: place for place, token in enumerate(vocabulary)}, merges, model_max_length=77
    )
