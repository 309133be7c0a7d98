"""A base model, concepts and adapters become a Pipeline: every way to draw but a grid's."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from detsd import console
from detsd.checkpoints import find_checkpoint, words_beside
from detsd.concepts import Concept, read_concepts
from detsd.config import ConfigError, ModelConfig, hub_token, read
from detsd.mixing import Asked, Source, brought_along, chosen, find_adapters
from detsd.model import StableDiffusion
from detsd.pretrained import DTYPES, load_model
from detsd.request import Request, RequestError, Settings
from detsd.safety import load_safety_checker
from detsd.sampler import Flag, Tick, check_scheduler, generate
from detsd.schedulers import known_scheduler
from detsd.words import named

BAR = "{percentage:3.0f}%|{bar}| {n:.0f}/{total} images [{elapsed}<{remaining}]"


class Pipeline:
    """Draws prompts that may name the concepts."""

    def __init__(
        self,
        model: StableDiffusion,
        *,
        base: str = "",
        scheduler: str = "pndm",
        flag: Flag | None = None,
        initializers: Mapping[str, str] | None = None,
        adapters: Mapping[str, float] | None = None,
    ):
        self.model = model
        self.base = base
        self.scheduler = scheduler
        self.initializers = dict(initializers or {})
        """The words that each concept started from, where its file says so."""
        self._adapters = dict(adapters or {})
        self._flag = flag

    @property
    def concepts(self) -> Mapping[str, int]:
        """The concepts that prompts may name, and how many vectors each has."""
        return self.model.concepts

    @property
    def adapters(self) -> dict[str, float]:
        """The adapters, and how much each counts where a call says nothing else."""
        return dict(self._adapters)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] = "",
        seed: int | Sequence[int] = 0,
        count: int = 1,
        guidance: float | Sequence[float] = 7.5,
        steps: int = 50,
        scheduler: str | None = None,
        scheduler_kwargs: Mapping[str, Any] | None = None,
        size: tuple[int, int] | None = None,
        adapters: Asked = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> list[Image.Image]:
        """Return `count` images of each prompt, one prompt's after another's.

        A negative prompt, a seed and a guidance are for all prompts or, as a list, one for each;
        an image's seed is that of its prompt + its place among the prompt's. Guidance of 1 or less
        is without any, and without the negative prompt. `size` is (width, height), `batch_size` as
        many as fit, and `progress` is shown on a terminal and in a notebook, unless they say
        otherwise.

        `adapters` are those that count, by name and scale, {"style": 0.5}; others do not, and with
        [] none does. Without it they count as they were loaded.

        A `<word>` in angle brackets that is no concept is refused: a concept was meant that is not
        there. Any other word may be plain English. How an image was made is JSON in its
        `info["detsd"]`; one that the model's safety checker finds is marked in `info["flags"]`.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if count < 1:
            raise RequestError(f"count: 1 or more is wanted, found {count}")
        if batch_size is not None and batch_size < 1:
            raise RequestError(f"batch_size: 1 or more is wanted, found {batch_size}")
        arguments = dict(scheduler_kwargs or {})
        mixed = chosen(self._adapters, adapters)
        settings = Settings(scheduler or self.scheduler, arguments, steps, size, mixed)
        rows = zip(
            prompts,
            _each(negative_prompt, prompts, "negative_prompt"),
            _each(seed, prompts, "seed"),
            _each(guidance, prompts, "guidance"),
            strict=True,
        )
        requests = [
            Request(text, first + place, scale, settings, negative)
            for text, negative, first, scale in rows
            for place in range(count)
        ]
        if progress is None:
            progress = console.is_watched()
        with tqdm(total=len(requests), bar_format=BAR, disable=not progress) as bar:
            # Shares of images may add up to a little more than all of them.
            def tick(images: float) -> None:
                bar.update(min(images, len(requests) - bar.n))

            made = dict(self.draw(requests, batch_size, tick=tick))
        return [made[place] for place in range(len(requests))]

    def draw(
        self,
        requests: Sequence[Request],
        batch_size: int | None = None,
        *,
        tick: Tick = lambda images: None,
    ) -> Iterator[tuple[int, Image.Image]]:
        """Yield (place in requests, image) as they are made, each with how it was made."""
        for settings in _distinct(request.settings for request in requests):
            check_scheduler(settings, "scheduler")
        requests = [self._settled(request) for request in requests]
        for place, image in generate(self.model, requests, batch_size, flag=self._flag, tick=tick):
            about = self._about(requests[place], image)
            image.info["detsd"] = json.dumps(about, sort_keys=True, default=str)
            yield place, image

    def _settled(self, request: Request) -> Request:
        settings = request.settings
        scales = chosen(self._adapters, settings.adapters)
        return request._replace(settings=settings._replace(adapters=scales))

    def _about(self, request: Request, image: Image.Image) -> dict[str, Any]:
        settings = request.settings
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "guidance": request.guidance,
            "steps": settings.steps,
            "scheduler": settings.scheduler,
            "scheduler_kwargs": settings.scheduler_kwargs,
            "width": image.width,
            "height": image.height,
            "model": self.base,
            "concepts": sorted(named(request.prompt, self.concepts)),
            "adapters": dict(settings.adapters or ()),
        }


def load_pipeline(
    base: str | Path,
    *,
    config_name_or_path: str | Path | None = None,
    concepts: Sequence[Concept | str | Path] | Concept | str | Path = (),
    adapters: Sequence[Source | tuple[Source, float]] | Source | tuple[Source, float] = (),
    scheduler: str = "pndm",
    device: str | torch.device | None = None,
    precision: str | None = None,
    safety: bool = True,
) -> Pipeline:
    """Load a model, concepts and adapters.

    The model is a folder or a hub id; a single file, built by the configs that
    `config_name_or_path` names; or, where all weights were trained, the checkpoint, whose words
    come along. A concept or an adapter is a record, a file, a checkpoint folder, or the UUID
    of a Determined checkpoint; an adapter may be in a pair with its scale, and brings the concepts
    of its checkpoint along. `safety` is whether to load the safety checker, where there is one.
    """
    known_scheduler(scheduler)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = precision or ("fp16" if place.type == "cuda" else "fp32")
    if precision not in DTYPES:
        raise ConfigError([f"precision: {', '.join(DTYPES)} are known, found {precision!r}"])
    named = {"pretrained_model_name_or_path": str(base)}
    if config_name_or_path is not None:
        named["config_name_or_path"] = str(config_name_or_path)
    config = read(ModelConfig, named)
    name = config.pretrained_model_name_or_path
    sources = [concepts] if isinstance(concepts, (Concept, str, Path)) else concepts
    found = [concept for source in sources for concept in find_concepts(source)]
    mixed = find_adapters(adapters)
    found += brought_along(mixed, found)
    found += words_beside(name, {concept.name for concept in found})
    token = hub_token(os.environ)
    model = load_model(config, place, precision=precision, token=token)
    for concept in found:
        model.add_concept(concept)
    for loaded in mixed:
        model.add_adapter(loaded.name, loaded.adapter)
    checker = load_safety_checker(name, place, token=token) if safety else None
    # Nothing is trained here, so the VAE need not make room between two calls.
    model.vae.to(place)
    words = {concept.name: concept.initializer for concept in found if concept.initializer}
    return Pipeline(
        model,
        base=name,
        scheduler=scheduler,
        flag=checker,
        initializers=words,
        adapters={loaded.name: loaded.scale for loaded in mixed},
    )


def find_concepts(source: Concept | str | Path) -> list[Concept]:
    """Return the concepts of a record, a file, a checkpoint folder or a checkpoint's UUID."""
    if isinstance(source, Concept):
        return [source]
    return read_concepts(find_checkpoint(source))


def _each(value: Any, prompts: Sequence[str], key: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * len(prompts)
    if len(value) != len(prompts):
        raise RequestError(
            f"{key}: one for all prompts or one for each of the {len(prompts)} is wanted, found "
            f"{len(value)}"
        )
    return value


def _distinct(settings: Iterator[Settings]) -> list[Settings]:
    found: list[Settings] = []
    for one in settings:
        if one not in found:
            found.append(one)
    return found
