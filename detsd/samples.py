"""The pictures that a run draws of its prompts, with the same seeds each time."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain

from PIL import Image

from detsd.config import InferenceConfig
from detsd.gallery import sheet
from detsd.model import StableDiffusion
from detsd.sampler import Request, Settings, generate
from detsd.trial import Trial
from detsd.words import named

Drawn = dict[str, list[Image.Image]]  # by prompt


class Samples:
    """A sheet a prompt: a row for each slot of the trial, as many columns as the config says."""

    def __init__(
        self,
        config: InferenceConfig,
        prompts: Sequence[str],
        model: StableDiffusion,
        trial: Trial,
    ):
        self._config = config
        self._prompts = prompts
        self._model = model
        self._trial = trial
        self._columns = config.num_pipeline_calls * config.inference_batch_size
        self._settings = sample_settings(config)

    def draw(self, step: int, may_stop: bool) -> Drawn | None:
        """Draw and show a sheet of each prompt; return the images by prompt, or None if cut short.

        With a large model they take minutes: where `may_stop`, a request to stop cuts them short.
        """
        return self._draw(step, _names(self._prompts), may_stop)

    def complete(self, step: int) -> None:
        """Draw the sheets of a step that are missing: those of prompts that are new."""
        self._draw(step, missing_samples(self._prompts, self._trial, step), may_stop=False)

    def images(self, prompts: Sequence[str]) -> Drawn:
        """Draw the prompts with the samples' seeds, and show nothing."""
        with self._model.vae_awake():
            return {prompt: self._images(prompt, may_stop=False) or [] for prompt in prompts}

    def _draw(self, step: int, prompts: Mapping[str, str], may_stop: bool) -> Drawn | None:
        drawn: Drawn = {}
        if not prompts:
            return drawn
        with self._model.vae_awake():
            for name, prompt in prompts.items():
                images = self._images(prompt, may_stop)
                if images is None:
                    return None
                drawn[prompt] = images
                self._trial.show(name, sheet(images, self._columns, f"step {step}: {prompt}"), step)
        return drawn

    def _images(self, prompt: str, may_stop: bool) -> list[Image.Image] | None:
        count = self._columns * self._trial.slots
        seed, guidance = self._config.main_process_generator_seed, self._config.guidance_scale
        requests = [
            Request(prompt, seed + place, guidance, self._settings) for place in range(count)
        ]
        size = self._config.inference_batch_size
        batches = [requests[start : start + size] for start in range(0, count, size)]

        def generate_batch(number: int) -> list[Image.Image]:
            return [image for _, image in generate(self._model, batches[number], size)]

        images: list[Image.Image] = []
        for start in range(0, len(batches), self._trial.size):
            if may_stop and self._trial.should_stop():
                return None
            round_ = range(len(batches))[start : start + self._trial.size]
            images += chain.from_iterable(self._trial.deal(generate_batch, round_))
        return images


def sample_settings(config: InferenceConfig) -> Settings:
    """Return how the config wants its samples drawn."""
    return Settings(
        config.inference_scheduler_name, config.scheduler_kwargs, config.num_inference_steps
    )


def missing_samples(prompts: Sequence[str], trial: Trial, step: int) -> dict[str, str]:
    """Return the prompts whose sheets were not shown at this step, by the sheets' names."""
    names = _names(prompts)
    # Asked of the chief's folder by every process: they have to agree on what to draw.
    return {
        name: prompt for name, prompt in names.items() if trial.any(not trial.shown(name, step))
    }


def names_no_concept(prompts: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the prompts in which none of the words stands."""
    return [prompt for prompt in prompts if not named(prompt, words)]


def _names(prompts: Sequence[str]) -> dict[str, str]:
    return {_name(place, prompt): prompt for place, prompt in enumerate(prompts)}


def _name(place: int, prompt: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48].strip("-")
    return f"{place:02d}-{slug}"
