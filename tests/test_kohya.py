"""Kohya's names of modules, held against real models and against diffusers' own reader."""

from collections import Counter

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import lora_conversion_utils
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from detsd import kohya

SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module")
def unets():
    """UNets of the published sizes, without weights."""
    with torch.device("meta"):
        configs = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}
        return {family: UNet2DConditionModel(**config) for family, config in configs.items()}


def modules_of(model, part):
    """Return the names of what an adapter can change, as records have them."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [f"{part}.{name}" for name, one in model.named_modules() if isinstance(one, kinds)]


def encoders(family):
    """Return text encoders of the published depths, by part."""
    layers = {"sd1": (12,), "sd2": (23,), "sdxl": (12, 32)}[family]
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    parts = ("text_encoder", "text_encoder_2")
    made = {}
    with torch.device("meta"):
        for part, kind, count in zip(parts, kinds, layers, strict=False):
            config = CLIPTextConfig(hidden_size=64, num_hidden_layers=count, vocab_size=100)
            made[part] = kind(config)
    return made


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_module_is_flattened_and_found_again(unets, family):
    modules = modules_of(unets[family], "unet")
    for part, encoder in encoders(family).items():
        names = modules_of(encoder, part)
        # Transformers 5 has no such segment in the first encoder; files have.
        without = part == "text_encoder" and not hasattr(encoder, "text_model")
        modules += [name.replace(".", ".text_model.", 1) if without else name for name in names]
    flat = {module: kohya.flatten(module, family == "sdxl") for module in modules}
    assert not [module for module, name in flat.items() if name is None]
    assert max(Counter(flat.values()).values()) == 1
    assert {module: kohya.unflatten(name) for module, name in flat.items()} == {
        module: module for module in modules
    }
    unet = [name for name in flat.values() if name.startswith("lora_unet_")]
    assert all(kohya.is_sdxl(name) is (family == "sdxl") for name in unet)


def test_diffusers_finds_each_of_sdxls_modules(unets):
    modules = modules_of(unets["sdxl"], "unet")
    tensors = {}
    for number, module in enumerate(modules):
        for role in ("down", "up"):
            key = f"{kohya.flatten(module, True)}.lora_{role}.weight"
            tensors[key] = torch.tensor([number])
    mapped = lora_conversion_utils._maybe_map_sgm_blocks_to_diffusers(tensors, unets["sdxl"].config)
    found, _ = lora_conversion_utils._convert_non_diffusers_lora_to_diffusers(mapped)
    in_peft = convert_unet_state_dict_to_peft(found)
    read = {
        modules[int(value)]: key.removesuffix(".lora_A.weight")
        for key, value in in_peft.items()
        if key.endswith(".lora_A.weight")
    }
    assert read == {module: module for module in modules}


@pytest.mark.parametrize(
    ("module", "sdxl", "name"),
    [
        (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
            False,
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
        ),
        ("unet.time_embedding.linear_1", False, "lora_unet_time_embedding_linear_1"),
        (
            "text_encoder.text_model.encoder.layers.11.self_attn.q_proj",
            False,
            "lora_te_text_model_encoder_layers_11_self_attn_q_proj",
        ),
        (
            "text_encoder.text_model.encoder.layers.11.mlp.fc1",
            True,
            "lora_te1_text_model_encoder_layers_11_mlp_fc1",
        ),
        ("text_encoder_2.text_projection", True, "lora_te2_text_projection"),
        ("unet.conv_in", True, "lora_unet_input_blocks_0_0"),
        ("unet.down_blocks.1.resnets.0.conv1", True, "lora_unet_input_blocks_4_0_in_layers_2"),
        ("unet.down_blocks.1.downsamplers.0.conv", True, "lora_unet_input_blocks_6_0_op"),
        ("unet.mid_block.resnets.1.conv2", True, "lora_unet_middle_block_2_out_layers_3"),
        ("unet.up_blocks.1.upsamplers.0.conv", True, "lora_unet_output_blocks_5_2_conv"),
        ("unet.add_embedding.linear_2", True, "lora_unet_label_emb_0_2"),
        ("unet.conv_out", True, "lora_unet_out_2"),
    ],
)
def test_names_are_those_of_published_files(module, sdxl, name):
    assert kohya.flatten(module, sdxl) == name
    assert kohya.unflatten(name) == module


def test_sdxls_modules_are_known_by_diffusers_names_too():
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_ff_net_0_proj"
    module = "unet.down_blocks.1.attentions.0.transformer_blocks.1.ff.net.0.proj"
    assert kohya.unflatten(name) == module


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_double_blocks_0_img_attn_proj",
        "lora_unet_input_blocks_10_0_in_layers_2",
        "lora_unet_",
        "lora_te3_encoder_layers_0_fc1",
        "unet_conv_in",
        "lora_unet_conv_in_",
        "",
    ],
)
def test_names_of_other_models_are_none(name):
    assert kohya.unflatten(name) is None


@pytest.mark.parametrize(
    ("module", "sdxl"),
    [
        ("unet.down_blocks.0.resnets.2.conv1", True),
        ("unet.down_blocks.3.resnets.0.conv1", True),
        ("unet.some.other_module", False),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", False),
        ("vae.conv_in", False),
    ],
)
def test_what_kohyas_tools_do_not_have_has_no_name(module, sdxl):
    assert kohya.flatten(module, sdxl) is None
