"""The safety checker that a model may carry: it marks images, and changes none."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor

from detsd.checkpoints import find_model
from detsd.pretrained import ModelError
from detsd.reason import reason

# It says that it returns black images; they are not what is kept here.
logging.getLogger(StableDiffusionSafetyChecker.__module__).setLevel(logging.ERROR)


class SafetyChecker:
    """Finds what is not safe for work."""

    def __init__(self, module: Any, processor: Any, device: torch.device):
        self._module = module.requires_grad_(False).eval().to(device)
        self._processor = processor
        self._device = device

    def __call__(self, image: Image.Image) -> list[str]:
        """Return the image's flags: `nsfw`, or none."""
        seen = self._processor(image, return_tensors="pt").pixel_values
        nothing = [np.zeros(1)]  # what would be blackened
        _, found = self._module(images=nothing, clip_input=seen.to(self._device))
        return ["nsfw"] if found[0] else []


def load_safety_checker(
    name: str, device: torch.device, *, token: str | bool | None = None
) -> SafetyChecker | None:
    """Load the checker that the model's index names; None if it names none, or is a single file."""
    folder = find_model(name)
    if Path(folder).is_file():
        return None
    try:
        _, kind = DiffusionPipeline.load_config(folder, token=token).get(
            "safety_checker", (None,) * 2
        )
    except OSError:
        return None  # without an index a model names nothing
    if kind != StableDiffusionSafetyChecker.__name__:
        return None
    try:
        module, info = StableDiffusionSafetyChecker.from_pretrained(
            folder, subfolder="safety_checker", token=token, output_loading_info=True
        )
        processor = CLIPImageProcessor.from_pretrained(
            folder, subfolder="feature_extractor", token=token
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name} names a safety checker that cannot be loaded: {reason(error)}; to draw "
            "without one, say load_pipeline(…, safety=False), or take it out of model_index.json"
        ) from error
    if info["missing_keys"]:
        raise ModelError(f"{name}: its safety checker lacks {', '.join(info['missing_keys'])}")
    return SafetyChecker(module.float(), processor, device)
