"""The parts of the demo's model, untrained. This file knows their sizes."""

from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 128  # of the text encoder's states
SHRINK = 4  # pixels a latent, along each side


def build_vae(side: int) -> AutoencoderKL:
    """Pictures of that side to latents of a quarter of it, and back."""
    return AutoencoderKL(
        block_out_channels=(24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=side,
    )


def build_unet(side: int) -> UNet2DConditionModel:
    """Attention where the picture is small; at full size convolutions are cheaper."""
    return UNet2DConditionModel(
        sample_size=side // SHRINK,
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=[2, 2, 4],  # the number of heads, whatever the name says
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Three layers; trained with the UNet."""
    return CLIPTextModel(CLIPTextConfig(**_text(tokenizer), num_hidden_layers=3))


def build_scorer(tokenizer: CLIPTokenizer, side: int) -> CLIPModel:
    """Tells how well a picture and a text, or two pictures, go together."""
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": side,
        "patch_size": side // 8,
    }
    text = {**_text(tokenizer), "intermediate_size": 256, "num_hidden_layers": 2}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def build_scheduler() -> PNDMScheduler:
    """SD's noise levels; v-prediction, which learns colours at the highest ones sooner."""
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        skip_prk_steps=True,
        steps_offset=1,
    )
    scheduler.register_to_config(clip_sample=False)  # for the schedulers that would, as SD's has it
    return scheduler


def _text(tokenizer: CLIPTokenizer) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
