"""A base model and concepts become a Pipeline: the notebook's and every other way to draw."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from detsd.concepts import Concept, read_concepts
from detsd.config import ModelConfig, hub_token
from detsd.config.inference import SCHEDULER_DEFAULTS
from detsd.model import StableDiffusion, load_model
from detsd.sampler import Request, Settings, generate


class Pipeline:
    """Draws prompts that may name the concepts."""

    def __init__(self, model: StableDiffusion):
        self.model = model

    @property
    def concepts(self) -> Mapping[str, int]:
        """The concepts that prompts may name, and how many vectors each has."""
        return self.model.concepts

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int = 0,
        count: int = 1,
        steps: int = 50,
        guidance: float = 7.5,
        scheduler: str = "pndm",
        scheduler_kwargs: Mapping[str, Any] | None = None,
        batch_size: int = 1,
    ) -> list[Image.Image]:
        """Return `count` images of each prompt, with the seeds from `seed` up."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        requests = [Request(p, seed + place, guidance) for p in prompts for place in range(count)]
        arguments = {**SCHEDULER_DEFAULTS[scheduler], **(scheduler_kwargs or {})}
        settings = Settings(scheduler, arguments, steps)
        with self.model.vae_awake():
            return list(generate(self.model, requests, settings, batch_size))


def load_pipeline(
    base: str | Path,
    *,
    concepts: Sequence[Concept | str | Path] = (),
    device: str | torch.device | None = None,
    precision: str | None = None,
) -> Pipeline:
    """Load a model (a folder or hub id) and concepts (files, checkpoint folders or records)."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load_model(
        ModelConfig(pretrained_model_name_or_path=str(base)),
        place,
        precision=precision or ("fp16" if place.type == "cuda" else "fp32"),
        token=hub_token(os.environ),
    )
    for source in concepts:
        found = [source] if isinstance(source, Concept) else read_concepts(Path(source))
        for concept in found:
            model.add_concept(concept)
    return Pipeline(model)
