"""Where a grid's images are made: one model at a time, set up for them. It knows a record."""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from PIL import Image

from detsd.checkpoints import distinct, name_of
from detsd.compiling import chosen, compile_modules
from detsd.config import GridConfig, ModelConfig, hub_token
from detsd.imagestore import Record
from detsd.jobs import Job, configs_of, scheduler_arguments
from detsd.kept import open_model
from detsd.materials import Stock
from detsd.model import StableDiffusion
from detsd.rating import Rater, read_pictures
from detsd.request import Request, Settings
from detsd.safety import SafetyChecker, load_safety_checker
from detsd.sampler import generate
from detsd.score import Scorer, load_scorer


class Easel(NamedTuple):
    """A model with all concepts and adapters in it that its images may have."""

    model: StableDiffusion
    adapters: dict[str, str]  # what the model calls each, by its digest
    rater: Rater | None
    checker: SafetyChecker | None


class Studio:
    """Draws jobs and rates what comes of them, if there is a scorer."""

    def __init__(
        self,
        config: GridConfig,
        stock: Stock,
        device: torch.device,
        scorer: Scorer | None,
        keep: bool,
        passes: Mapping[str, float],
    ):
        self._config = config
        self._stock = stock
        self._device = device
        self._scorer = scorer
        self._keep = keep  # the last model, for another trial
        self._passes = passes
        self._easels: dict[str, Easel] = {}  # the last one, by its model

    def tokenize(self, jobs: Sequence[Job]) -> None:
        """Look at the prompts for the first model, and so warn of those that are too long."""
        first = jobs[0].materials.model
        model = self._easel(first).model
        spoken = [
            job.materials.vocabulary.spoken(text)
            for job in jobs
            if job.materials.model == first
            for text in (job.wanted.prompt, job.wanted.negative_prompt)
        ]
        model.text.tokenize(list(dict.fromkeys(spoken)))

    def draw(self, jobs: Sequence[Job]) -> Iterator[tuple[Record, Image.Image]]:
        """Yield each image as it is made, with all that is known of it."""
        for name, some in groupby(jobs, lambda job: job.materials.model):
            yield from self._draw(name, list(some))

    def _draw(self, name: str, jobs: Sequence[Job]) -> Iterator[tuple[Record, Image.Image]]:
        easel = self._easel(name)
        requests = [self._request(job, easel) for job in jobs]
        drawn = generate(easel.model, requests, self._config.at_once, flag=easel.checker)
        for place, image in drawn:
            yield self._record(jobs[place], image, easel.rater), image

    def _easel(self, name: str) -> Easel:
        if name not in self._easels:
            # Before the next is there: two models may be more than fits.
            self._easels.clear()
            gc.collect()
            easel = _set_up(self._config, self._stock, name, self._device, self._scorer, self._keep)
            if name in self._passes:
                wanted = self._config.pipeline.compile
                what = chosen(wanted, self._device, self._passes[name])
                # The UNet alone: it takes nearly all of the time, and a prompt is encoded once.
                compile_modules({"unet": easel.model.unet}, what)
            self._easels[name] = easel
        return self._easels[name]

    def _request(self, job: Job, easel: Easel) -> Request:
        one, vocabulary = job.wanted, job.materials.vocabulary
        arguments = scheduler_arguments(self._config, one.scheduler)
        size = (one.width or easel.model.size, one.height or easel.model.size)
        adapters = tuple(
            (easel.adapters[digest], scale) for digest, scale in job.materials.scales(one)
        )
        return Request(
            prompt=vocabulary.spoken(one.prompt),
            seed=one.seed,
            guidance=one.guidance_scale,
            settings=Settings(one.scheduler, arguments, one.steps, size, adapters),
            negative_prompt=vocabulary.spoken(one.negative_prompt),
        )

    def _record(self, job: Job, image: Image.Image, rater: Rater | None) -> Record:
        one, vocabulary = job.wanted, job.materials.vocabulary
        names = vocabulary.names(f"{one.prompt}\n{one.negative_prompt}")
        sources = [vocabulary.known[name].source for name in names]
        sources += [change.source for change in job.materials.changes]
        # One that does not count is named where a word is used that was learnt with it.
        adapters = {
            change.source: scale
            for change, scale in job.materials.weighed(one)
            if scale or change.source in sources
        }
        checkpoints = [source for source in sources if source != one.adapter]
        arguments = {
            **self._config.pipeline.forward_process,
            **scheduler_arguments(self._config, one.scheduler),
        }
        plain = vocabulary.plain(one.prompt)
        configs = configs_of(self._config, job.materials)
        return {
            "id": job.id,
            "file": f"images/{job.number:06d}-{job.id}.png",
            "cell": one.cell,
            "prompt": one.prompt,
            "negative_prompt": one.negative_prompt,
            "seed": one.seed,
            "guidance_scale": one.guidance_scale,
            "steps": one.steps,
            "scheduler": one.scheduler,
            "scheduler_kwargs": arguments,
            "size": list(image.size),
            "concepts": names,
            "checkpoints": list(dict.fromkeys([*filter(None, [one.checkpoint]), *checkpoints])),
            "adapter": one.adapter if one.adapter_scale else None,
            "adapter_scale": one.adapter_scale or None,
            "adapters": adapters,
            "model": job.materials.model,
            **({"configs": configs} if configs else {}),
            "seconds": round(image.info["seconds"], 3),
            "flags": list(image.info.get("flags", ())),
            "metrics": rater.rate([image], [plain])[0] if rater else {},
        }


def open_studio(
    config: GridConfig,
    stock: Stock,
    device: torch.device,
    *,
    keep: bool = False,
    passes: Mapping[str, float] | None = None,
) -> Studio:
    """Load the scorer, if one is named; a model is loaded when its first image is drawn.

    `passes` are how often images will go through each model's UNet: whether compiling it pays.
    Without them, for a few images, nothing is compiled.
    """
    name = config.scorer_name_or_path
    scorer = load_scorer(name, None, device, hub_token(os.environ)) if name else None
    return Studio(config, stock, device, scorer, keep, passes or {})


def _set_up(
    config: GridConfig,
    stock: Stock,
    name: str,
    device: torch.device,
    scorer: Scorer | None,
    keep: bool,
) -> Easel:
    token, pipeline = hub_token(os.environ), config.pipeline
    materials = [some for some in stock.values() if some.model == name]
    model = open_model(
        ModelConfig(
            pretrained_model_name_or_path=name,
            config_name_or_path=configs_of(config, materials[0]),
        ),
        device,
        keep=keep,
        channels_last=device.type == "cuda",
        precision="fp16" if pipeline.use_fp16 and device.type == "cuda" else "fp32",
        forward_process=pipeline.forward_process,
        token=token,
    )
    words = {
        known.concept.name: known.concept
        for some in materials
        for known in some.vocabulary.known.values()
    }
    for concept in words.values():
        model.add_concept(concept)
    adapters: dict[str, str] = {}
    for change in (change for some in materials for change in some.every_change):
        if change.digest not in adapters:
            adapters[change.digest] = distinct(name_of(change.source), adapters.values())
            model.add_adapter(adapters[change.digest], change.adapter)
    rater = None
    if scorer is not None:
        rater = Rater(scorer, read_pictures(config.scorer_img_dirs, model.size))
    return Easel(model, adapters, rater, load_safety_checker(name, device, token=token))
