"""What a grid is to make: each image, with all that it follows from, in their order."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from detsd.config import GridConfig
from detsd.config.grid import BLANK, CallConfig, SweepConfig

# Where an image stands among others, and what an adapter is called.
NOT_FOLLOWED = {"cell", "adapter", "adapter_scale"}


class Wanted(NamedTuple):
    """One image; its cell is what it shares with those that differ in their seed alone."""

    cell: int
    prompt: str
    negative_prompt: str
    checkpoint: str | None  # of a sweep over checkpoints
    scheduler: str
    steps: int
    guidance_scale: float
    width: int | None
    height: int | None
    seed: int
    adapter: str | None = None  # of a sweep over adapters
    adapter_scale: float | None = None


def wanted_images(config: GridConfig, slots: int) -> list[Wanted]:
    """Return every image of the trial, cell by cell."""
    if config.call_kwargs is not None:
        return _of_a_point(config, config.call_kwargs, slots)
    assert config.sweep is not None
    return _of_a_sweep(config.sweep, config.pipeline.scheduler_name)


def _of_a_point(config: GridConfig, call: CallConfig, slots: int) -> list[Wanted]:
    first = config.main_process_generator_seed
    count = (config.at_once or 1) * config.num_batches * slots * call.num_images_per_prompt
    return [
        Wanted(
            cell=0,
            prompt=call.prompt,
            negative_prompt=call.negative_prompt,
            checkpoint=None,
            scheduler=config.pipeline.scheduler_name,
            steps=call.num_inference_steps,
            guidance_scale=call.guidance_scale,
            width=call.width,
            height=call.height,
            seed=first + number,
        )
        for number in range(count)
    ]


def _of_a_sweep(sweep: SweepConfig, scheduler: str) -> list[Wanted]:
    prompts = [text for prompt in sweep.prompt for text in _filled(prompt, sweep.concept)]
    axes = {
        "prompt": prompts,
        "negative_prompt": sweep.negative_prompt,
        "checkpoint": sweep.checkpoint or (None,),
        "scheduler": sweep.scheduler or (scheduler,),
        "steps": sweep.steps,
        "guidance_scale": sweep.guidance_scale,
        "adapter": sweep.adapter or (None,),
        "adapter_scale": sweep.adapter_scale if sweep.adapter else (None,),
    }
    shared = {"width": sweep.width, "height": sweep.height}
    # A value may be there twice in two spellings, as 1 and "1".
    distinct = [dict.fromkeys(values) for values in axes.values()]
    cells = [dict(zip(axes, values, strict=True)) for values in product(*distinct)]
    return [
        Wanted(cell=number, **cell, **shared, seed=seed)  # type: ignore[arg-type]
        for number, cell in enumerate(cells)
        for seed in dict.fromkeys(sweep.seed)
    ]


def _filled(prompt: str, words: Sequence[str]) -> Iterator[str]:
    if BLANK not in prompt:
        yield prompt
        return
    for word in words:
        yield prompt.replace(BLANK, word)


def identity(
    one: Wanted,
    concepts: Mapping[str, str],
    shared: Mapping[str, Any],
    scales: Sequence[tuple[str, float]] = (),
) -> str:
    """Return a digest of all that the image follows from.

    That is its settings, its concepts' digests, what it shares with the others (the model), and the
    digests and scales of the adapters that count: without any it is what it always was.
    """
    own = {key: value for key, value in one._asdict().items() if key not in NOT_FOLLOWED}
    text = json.dumps([own, dict(concepts), dict(shared), *scales], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
