"""BLIP and BLIP-2 with random weights, as save_pretrained leaves them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    GPT2Tokenizer,
    OPTConfig,
    PreTrainedConfig,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

KINDS = ("blip", "blip-2 with OPT", "blip-2 with T5")
WORDS = ["a", "an", "the", "photo", "picture", "of", "on", "in", "red", "green", "blue", "white"]
WORDS += ["wall", "cat", "dog", "star", ",", ".", "{", "}"]
LETTERS = (*"abcdefghijklmnopqrstuvwxyzAP{},.", "\u0120", "\u010a")  # the last: space, new line
QUERIES = 4
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
# Wide, so that one picture's words differ from another's.
SMALL |= {"num_attention_heads": 2, "initializer_range": 1.0}
VISION = {**SMALL, "image_size": 32, "patch_size": 16}


def build(folder: Path, kind: str) -> Path:
    """Write a tiny model of the kind into the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = _blip() if kind == "blip" else _blip_2(kind)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _blip() -> tuple[Any, Any]:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    # As in the real one, captions start with a token that the tokenizer does not know.
    text = {**SMALL, "vocab_size": len(words) + 2, "bos_token_id": len(words), "pad_token_id": 0}
    text |= {"eos_token_id": 3, "sep_token_id": 3, "encoder_hidden_size": 16, "projection_dim": 16}
    config = BlipConfig(text_config=text, vision_config=VISION, projection_dim=16)
    model = BlipForConditionalGeneration(config)
    say(model, range(5, len(words)))
    return model, BlipProcessor(_eyes(), tokenizer)


def say(model: BlipForConditionalGeneration, tokens: Sequence[int]) -> None:
    """Let a BLIP say these tokens only."""
    bias = model.text_decoder.cls.predictions.decoder.bias.data
    bias.fill_(-100.0)[list(tokens)] = 0.0


def _blip_2(kind: str) -> tuple[Any, Any]:
    letters = ["<pad>", "</s>", *LETTERS]
    tokenizer = GPT2Tokenizer(
        vocab={letter: number for number, letter in enumerate(letters)},
        merges=[],
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>"),
        pad_token="<pad>",
        add_bos_token=True,
    )
    processor = Blip2Processor(_eyes(), tokenizer, num_query_tokens=QUERIES)
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**SMALL, "encoder_hidden_size": 16, "vocab_size": 8},
        text_config=_language_model(kind, len(tokenizer)),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return Blip2ForConditionalGeneration(config), processor


def _language_model(kind: str, tokens: int) -> PreTrainedConfig:
    marks = {"vocab_size": tokens, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    if kind == "blip-2 with T5":
        size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        return T5Config(**marks, **size, initializer_factor=4.0, decoder_start_token_id=0)
    size = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 1}
    return OPTConfig(**marks, **size, num_attention_heads=2, init_std=1.0)


def _eyes() -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": 32, "width": 32})
