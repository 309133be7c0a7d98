"""Where a grid's images are made: its model with all concepts in it. This file knows a record."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image

from detsd.config import GridConfig, hub_token
from detsd.imagestore import Record
from detsd.model import StableDiffusion
from detsd.pretrained import load_model
from detsd.rating import Rater, read_pictures
from detsd.request import Request, Settings, check_words
from detsd.safety import SafetyChecker, load_safety_checker
from detsd.sampler import check_scheduler, generate
from detsd.score import load_scorer
from detsd.sweep import Wanted, identity, wanted_images
from detsd.vocabulary import Vocabulary

Vocabularies = Mapping[str | None, Vocabulary]


class Job(NamedTuple):
    """An image to be made."""

    number: int  # among all of the grid
    id: str
    wanted: Wanted


def list_jobs(config: GridConfig, vocabularies: Vocabularies, slots: int) -> list[Job]:
    """Return every image of the grid, in the order of its cells."""
    pipeline = config.pipeline
    jobs = []
    for number, one in enumerate(wanted_images(config, slots)):
        vocabulary = vocabularies[one.checkpoint]
        names = vocabulary.names(f"{one.prompt}\n{one.negative_prompt}")
        concepts = {name: vocabulary.known[name].digest for name in names}
        shared = {
            "model": pipeline.pretrained_model_name_or_path,
            "scheduler_kwargs": _arguments(config, one.scheduler),
            "forward_process": pipeline.forward_process,
        }
        jobs.append(Job(number, identity(one, concepts, shared), one))
    assert len({job.id for job in jobs}) == len(jobs)
    return jobs


def check_jobs(config: GridConfig, vocabularies: Vocabularies, jobs: Sequence[Job]) -> None:
    """Refuse words that are no concepts, and what a scheduler cannot do; no model is needed."""
    for prompt, negative_prompt, checkpoint in {
        (job.wanted.prompt, job.wanted.negative_prompt, job.wanted.checkpoint) for job in jobs
    }:
        for text in (prompt, negative_prompt):
            check_words(text, vocabularies[checkpoint].num_vectors)
    for name, steps in {(job.wanted.scheduler, job.wanted.steps) for job in jobs}:
        settings = Settings(name, _arguments(config, name), steps)
        key = "pipeline.other_scheduler_kwargs"
        check_scheduler(settings, key, config.pipeline.forward_process)


class Studio:
    """A model with the concepts in it, and a rater of what it draws, if there is one."""

    def __init__(
        self,
        config: GridConfig,
        model: StableDiffusion,
        vocabularies: Vocabularies,
        rater: Rater | None,
        checker: SafetyChecker | None,
    ):
        self._config = config
        self._model = model
        self._vocabularies = vocabularies
        self._rater = rater
        self._checker = checker

    def tokenize(self, jobs: Sequence[Job]) -> None:
        """Look at all prompts, and so warn of those that are too long."""
        requests = [self._request(job.wanted) for job in jobs]
        texts = dict.fromkeys(
            text for one in requests for text in (one.prompt, one.negative_prompt)
        )
        self._model.text.tokenize(list(texts))

    def draw(self, jobs: Sequence[Job]) -> Iterator[tuple[Record, Image.Image]]:
        """Yield each image as it is made, with all that is known of it."""
        requests = [self._request(job.wanted) for job in jobs]
        for place, image in generate(
            self._model, requests, self._config.at_once, flag=self._checker
        ):
            yield self._record(jobs[place], image), image

    def _request(self, one: Wanted) -> Request:
        vocabulary = self._vocabularies[one.checkpoint]
        arguments = _arguments(self._config, one.scheduler)
        size = (one.width or self._model.size, one.height or self._model.size)
        return Request(
            prompt=vocabulary.spoken(one.prompt),
            seed=one.seed,
            guidance=one.guidance_scale,
            settings=Settings(one.scheduler, arguments, one.steps, size),
            negative_prompt=vocabulary.spoken(one.negative_prompt),
        )

    def _record(self, job: Job, image: Image.Image) -> Record:
        one, vocabulary = job.wanted, self._vocabularies[job.wanted.checkpoint]
        names = vocabulary.names(f"{one.prompt}\n{one.negative_prompt}")
        sources = [vocabulary.known[name].source for name in names]
        arguments = {
            **self._config.pipeline.forward_process,
            **_arguments(self._config, one.scheduler),
        }
        plain = vocabulary.plain(one.prompt)
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
            "checkpoints": list(dict.fromkeys([*filter(None, [one.checkpoint]), *sources])),
            "model": self._config.pipeline.pretrained_model_name_or_path,
            "seconds": round(image.info["seconds"], 3),
            "flags": list(image.info.get("flags", ())),
            "metrics": self._rater.rate([image], [plain])[0] if self._rater else {},
        }


def open_studio(config: GridConfig, vocabularies: Vocabularies, device: torch.device) -> Studio:
    """Load the model, and put every concept into it."""
    token, pipeline = hub_token(os.environ), config.pipeline
    model = load_model(
        pipeline.model,
        device,
        precision="fp16" if pipeline.use_fp16 and device.type == "cuda" else "fp32",
        forward_process=pipeline.forward_process,
        token=token,
    )
    added = {
        known.concept.name: known.concept
        for vocabulary in vocabularies.values()
        for known in vocabulary.known.values()
    }
    for concept in added.values():
        model.add_concept(concept)
    rater = None
    if config.scorer_name_or_path is not None:
        scorer = load_scorer(config.scorer_name_or_path, None, device, token)
        rater = Rater(scorer, read_pictures(config.scorer_img_dirs, model.size))
    checker = load_safety_checker(pipeline.pretrained_model_name_or_path, device, token=token)
    return Studio(config, model, vocabularies, rater, checker)


def _arguments(config: GridConfig, scheduler: str) -> dict[str, Any]:
    pipeline = config.pipeline
    # What the config says is of its own scheduler; the others of a sweep have their defaults.
    return pipeline.other_scheduler_kwargs if scheduler == pipeline.scheduler_name else {}
