"""The images of a grid as work to be done: each with its id, in the order to make them in."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from detsd.config import GridConfig
from detsd.materials import Materials, Stock
from detsd.request import Settings, check_words
from detsd.sampler import check_scheduler
from detsd.sweep import Wanted, identity, wanted_images


class Job(NamedTuple):
    """An image to be made, and what it is made with."""

    number: int  # among all of the grid
    id: str
    wanted: Wanted
    materials: Materials


def list_jobs(config: GridConfig, stock: Stock, slots: int) -> list[Job]:
    """Return every image of the grid, in the order of its cells.

    Without its adapter an image is the same whichever that would be, and is there once.
    """
    jobs: dict[str, Job] = {}
    for one in wanted_images(config, slots):
        materials = stock[one.checkpoint, one.adapter]
        id = _id(config, one, materials)
        assert one.adapter or id not in jobs
        jobs.setdefault(id, Job(len(jobs), id, one, materials))
    return list(jobs.values())


def check_jobs(config: GridConfig, jobs: Sequence[Job]) -> None:
    """Refuse words that are no concepts, and what a scheduler cannot do; no model is needed."""
    distinct = {
        (text, job.wanted.checkpoint, job.wanted.adapter): job.materials.vocabulary
        for job in jobs
        for text in (job.wanted.prompt, job.wanted.negative_prompt)
    }
    for (text, *_), vocabulary in distinct.items():
        check_words(text, vocabulary.num_vectors)
    for name, steps in {(job.wanted.scheduler, job.wanted.steps) for job in jobs}:
        settings = Settings(name, scheduler_arguments(config, name), steps)
        key = "pipeline.other_scheduler_kwargs"
        check_scheduler(settings, key, config.pipeline.forward_process)


def by_model(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs so that each model has to be loaded once."""
    models = list(dict.fromkeys(job.materials.model for job in jobs))
    return sorted(jobs, key=lambda job: models.index(job.materials.model))


def passes(job: Job) -> int:
    """Return how often the image goes through the UNet."""
    return job.wanted.steps * (2 if job.wanted.guidance_scale > 1 else 1)


def passes_by_model(jobs: Sequence[Job]) -> dict[str, int]:
    """Return how often images go through each model's UNet."""
    counts: Counter[str] = Counter()
    for job in jobs:
        counts[job.materials.model] += passes(job)
    return dict(counts)


def scheduler_arguments(config: GridConfig, scheduler: str) -> dict[str, Any]:
    """Return the config's for its own scheduler; the others of a sweep have their defaults."""
    pipeline = config.pipeline
    return pipeline.other_scheduler_kwargs if scheduler == pipeline.scheduler_name else {}


def configs_of(config: GridConfig, materials: Materials) -> str | None:
    """Return where the configs of a model in a single file are; a checkpoint's has its own."""
    return None if materials.model_digest else config.pipeline.config_name_or_path


def _id(config: GridConfig, one: Wanted, materials: Materials) -> str:
    vocabulary = materials.vocabulary
    names = vocabulary.names(f"{one.prompt}\n{one.negative_prompt}")
    configs = configs_of(config, materials)
    shared = {
        "model": materials.model_digest or materials.model,
        **({"configs": configs} if configs else {}),
        "scheduler_kwargs": scheduler_arguments(config, one.scheduler),
        "forward_process": config.pipeline.forward_process,
    }
    digests = {name: vocabulary.known[name].digest for name in names}
    return identity(one, digests, shared, materials.scales(one))
