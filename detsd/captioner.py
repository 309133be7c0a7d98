"""What a BLIP model says of a picture; this file knows no folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from detsd.config.hub import folder_or_hub_id
from detsd.reason import reason

BEAMS = 3
LONGEST = 40  # tokens after the beginning
WRITERS = {"BlipForConditionalGeneration", "Blip2ForConditionalGeneration"}
WANTED = "a BLIP or BLIP-2 that writes captions is wanted, as Salesforce/blip-image-captioning-base"


class CaptionError(ValueError):
    """Captions that cannot be had, and why."""


class Captioner:
    """A model that says what is in a picture, the same each time."""

    def __init__(self, model: Any, processor: Any, begin: str = ""):
        self._model = model
        self._processor = processor
        self._begin = " ".join(begin.split())
        # A tokenizer may know lower case only, and put spaces around what is no letter.
        [self._spelt] = self._decode([processor.tokenizer(self._begin)["input_ids"]])

    @torch.no_grad()
    def say(self, pictures: Sequence[Image.Image]) -> list[str]:
        """Return a line a picture, which starts with the beginning; an empty one if that is all."""
        if not pictures:
            return []
        texts = {"text": [self._begin] * len(pictures)} if self._begin else {}
        seen = self._processor(images=list(pictures), return_tensors="pt", **texts)
        seen = seen.to(self._model.device)
        ids = self._model.generate(**seen, do_sample=False, num_beams=BEAMS, max_new_tokens=LONGEST)
        return [self._whole(line) for line in self._decode(ids)]

    def _decode(self, ids: Any) -> list[str]:
        lines = self._processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(line.split()) for line in lines]

    def _whole(self, line: str) -> str:
        if line in ("", self._spelt):
            return ""
        # A T5 in a BLIP-2 returns only what is new.
        if self._model.config.text_config.is_encoder_decoder:
            return f"{self._begin} {line}".strip()
        if line.startswith(self._spelt):
            return self._begin + line.removeprefix(self._spelt)
        return line


def load_captioner(
    name: str, device: str | None = None, begin: str = "", token: str | bool | None = None
) -> Captioner:
    """Load the model, from a folder or the hub; each of its captions starts with `begin`."""
    with _refused("--device"):
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with _refused(f"--model: {name} could not be loaded", f"; {WANTED}"):
        name = folder_or_hub_id(name)
        config = AutoConfig.from_pretrained(name, token=token, trust_remote_code=False)
    if not WRITERS & set(config.architectures or ()):
        found = ", ".join(config.architectures or [config.model_type])
        raise CaptionError(f"--model: {name} is {found}; {WANTED}")
    with _refused(f"--model: {name} could not be loaded"):
        processor = AutoProcessor.from_pretrained(name, token=token)
        model, info = AutoModelForImageTextToText.from_pretrained(
            name,
            token=token,
            dtype=torch.float16 if place.type == "cuda" else torch.float32,
            output_loading_info=True,
        )
    if missing := sorted(info["missing_keys"]):
        found = f"{len(missing)} weights, {missing[0]} among them"
        raise CaptionError(f"--model: {name} lacks {found}")
    _check_tokens(name, config, processor)
    with _refused(f"--device: {place}"):
        model.requires_grad_(False).eval().to(place)
    return Captioner(model, processor, begin)


def _check_tokens(name: str, config: Any, processor: Any) -> None:
    # A tokenizer comes without its files, too, and then knows no words.
    found, wanted = len(processor.tokenizer), config.text_config.vocab_size
    if found < wanted / 2:
        raise CaptionError(
            f"--model: {name}: its tokenizer has {found} tokens, and the model {wanted}; does it "
            "lack tokenizer.json or vocab.txt?"
        )
    if config.model_type != "blip-2":
        return
    # Older files don't say how many tokens stand for a picture: the model would not look at it.
    processor.num_query_tokens = config.num_query_tokens
    seen = processor.tokenizer.convert_tokens_to_ids(processor.image_token.content)
    if seen != config.image_token_id:
        raise CaptionError(
            f"--model: {name}: the token for pictures is {config.image_token_id} in config.json, "
            f"and {seen} to the tokenizer; newer files of this model may agree"
        )


@contextmanager
def _refused(what: str, wanted: str = "") -> Iterator[None]:
    try:
        yield
    # Broken files, and devices that are not there, end in errors of every kind.
    except Exception as error:
        raise CaptionError(f"{what}: {reason(error)}{wanted}") from error
