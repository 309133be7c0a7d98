"""The two names that notebooks written for the earlier example import."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from detsd import finetune
from detsd.checkpoints import CheckpointError, distinct, name_of, read_export, words_beside
from detsd.concepts import ConceptError
from detsd.config import ModelConfig, hub_token, read
from detsd.denoise import build_scheduler
from detsd.pretrained import load_model
from detsd.request import Settings
from detsd.safety import load_safety_checker
from detsd.schedulers import known_scheduler
from detsd.tokens import expand


class DetSDTextualInversionTrainer:
    """Trains on a cluster."""

    @classmethod
    def train_on_cluster(cls) -> None:
        """Run the trial that this process was started for."""
        finetune.main()


class DetSDTextualInversionPipeline:
    """Diffusers' pipeline with learnt concepts in it."""

    def __init__(
        self,
        learned_embeddings_filename: str = "learned_embeddings_dict.pt",
        scheduler_name: str = "pndm",
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        other_scheduler_kwargs: Mapping[str, Any] | None = None,
        pretrained_model_name_or_path: str = "CompVis/stable-diffusion-v1-4",
        device: str = "cuda",
        use_fp16: bool = True,
        disable_progress_bar: bool = False,
        config_name_or_path: str | None = None,
    ):
        self._file_name = learned_embeddings_filename
        self._quiet = disable_progress_bar
        token = hub_token(os.environ)
        named = {
            "pretrained_model_name_or_path": pretrained_model_name_or_path,
            "config_name_or_path": config_name_or_path,
        }
        config = read(ModelConfig, named)
        self._model = load_model(
            config,
            torch.device(device),
            # A CPU computes half precision in fp32 anyway, and says nothing of it.
            precision="fp16" if use_fp16 and device != "cpu" else "fp32",
            forward_process={
                "beta_start": beta_start,
                "beta_end": beta_end,
                "beta_schedule": beta_schedule,
            },
            token=token,
        )
        for concept in words_beside(config.pretrained_model_name_or_path):
            self._model.add_concept(concept)
        self._model.vae.to(self._model.device, self._model.dtype)
        name, place = config.pretrained_model_name_or_path, self._model.device
        self._checker = load_safety_checker(name, place, token=token)
        arguments = dict(other_scheduler_kwargs or {})
        self._settings = Settings(known_scheduler(scheduler_name), arguments, steps=50)
        self._adapters: list[str] = []
        self._pipeline: Any = None

    @property
    def all_added_concepts(self) -> list[str]:
        """The concepts that prompts may name."""
        return list(self._model.concepts)

    def load_from_checkpoint_dir(
        self, checkpoint_dir: str | Path, learned_embeddings_filename: str | None = None
    ) -> None:
        """Add what a checkpoint holds: its adapter, and all of its concepts; or, if one of these is
        known already, nothing."""
        export = read_export(checkpoint_dir, learned_embeddings_filename or self._file_name)
        if export.model:
            raise CheckpointError(
                f"{checkpoint_dir}: holds a whole model: it is a pretrained_model_name_or_path"
            )
        for concept in export.concepts:
            if concept.name in self._model.concepts:
                raise ConceptError(f"{checkpoint_dir}: {concept.name} was added before")
        if export.adapter:
            name = distinct(name_of(checkpoint_dir), self._adapters)
            self._model.add_adapter(name, export.adapter)
            self._adapters.append(name)
            self._model.use_adapters([(one, 1.0) for one in self._adapters])
        for concept in export.concepts:
            self._model.add_concept(concept)
        self._pipeline = None

    def load_from_uuids(self, uuids: str | Sequence[str]) -> None:
        """Add what Determined checkpoints hold."""
        for uuid in [uuids] if isinstance(uuids, str) else uuids:
            self.load_from_checkpoint_dir(uuid)

    def __call__(self, **kwargs: Any) -> Any:
        """Return the output of diffusers' pipeline; `prompt` may name the concepts.

        Images that are not safe for work are named in `nsfw_content_detected`, and not blackened.
        """
        if self._pipeline is None:
            scheduler = build_scheduler(self._model, self._settings)
            self._pipeline = self._model.pipeline(scheduler)
            self._pipeline.set_progress_bar_config(disable=self._quiet)
        for key in ("prompt", "negative_prompt"):
            if kwargs.get(key):
                kwargs[key] = self._expand(kwargs[key])
        images = self._pipeline(**{**kwargs, "return_dict": True}).images
        flagged = [self._is_flagged(image) for image in images]
        if not kwargs.get("return_dict", True):
            return images, flagged
        from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

        return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=flagged)

    def _is_flagged(self, image: Any) -> bool:
        # Arrays and latents, which a caller may ask for, are nothing that it can look at.
        if self._checker is None or not isinstance(image, Image.Image):
            return False
        return bool(self._checker(image))

    def _expand(self, prompt: str | Sequence[str]) -> str | list[str]:
        if isinstance(prompt, str):
            return expand(prompt, self._model.concepts)
        return [expand(one, self._model.concepts) for one in prompt]
