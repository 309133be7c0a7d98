"""The entry point of generation: one point of a grid, its images made once and kept at once."""

import inspect
import logging
import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from detsd.concepts import read_concepts
from detsd.config import ConfigError, GridConfig, hub_token, read
from detsd.model import StableDiffusion, load_model
from detsd.sampler import Settings, build_scheduler, check_scheduler
from detsd.trial import Trial, download, run_trial
from detsd.words import expand

log = logging.getLogger(__name__)


def generate_grid(trial: Trial) -> None:
    """Make the trial's images that are not there yet."""
    config = read(GridConfig, trial.hparams)
    settings = Settings(config.pipeline.scheduler_name, config.pipeline.scheduler_kwargs, 50)
    check_scheduler(settings, "pipeline.other_scheduler_kwargs")
    total = config.batch_size * config.num_batches * trial.slots
    missing = [
        start
        for start in range(0, total, config.batch_size)
        if trial.any(not all(trial.shown(name, 0) for name in _names(start, config)))
    ]
    if not missing:
        log.info("all %d images are there: nothing is left to do", total)
        return
    pipeline, prompt = _load(config, settings, trial)

    def make(start: int) -> list[Image.Image]:
        numbers = range(start, start + config.batch_size)
        seed = config.main_process_generator_seed
        generators = [torch.Generator().manual_seed(seed + number) for number in numbers]
        arguments = {**config.call_kwargs, **prompt, "num_images_per_prompt": len(numbers)}
        return pipeline(**arguments, generator=generators).images

    for first in range(0, len(missing), trial.size):
        starts = missing[first : first + trial.size]
        for start, images in zip(starts, trial.deal(make, starts), strict=True):
            for name, image in zip(_names(start, config), images, strict=True):
                trial.show(name, image, 0)
        trial.progress(total - config.batch_size * len(missing[first + trial.size :]), total)
        if first + trial.size < len(missing) and trial.should_stop():
            log.info("stopped with images left to make: the next start makes them")
            return


def _names(start: int, config: GridConfig) -> list[str]:
    return [f"image-{number:06d}" for number in range(start, start + config.batch_size)]


def _load(config: GridConfig, settings: Settings, trial: Trial) -> tuple[Any, dict[str, str]]:
    """Return the pipeline, and the prompts of its calls with the concepts' pieces in them."""
    on_gpu = trial.device.type == "cuda"
    model = load_model(
        config.pipeline.model,
        trial.device,
        precision="fp16" if config.pipeline.use_fp16 and on_gpu else "fp32",
        forward_process=config.pipeline.forward_process,
        token=hub_token(os.environ),
    )
    for source in (*config.local_checkpoint_paths, *map(download, config.uuids)):
        _add_concepts(model, source, config.pipeline.learned_embeddings_filename)
    model.vae.to(model.device, model.unet.dtype)
    pipeline = model.pipeline(build_scheduler(model, settings))
    known = inspect.signature(pipeline.__call__).parameters
    unknown = sorted(set(config.call_kwargs) - set(known))
    if unknown:
        raise ConfigError([f"call_kwargs.{key}: unknown to this pipeline" for key in unknown])
    quiet = config.pipeline.disable_progress_bar or not trial.is_chief
    pipeline.set_progress_bar_config(disable=quiet)
    texts = {key: config.call_kwargs.get(key) for key in ("prompt", "negative_prompt")}
    return pipeline, {key: expand(text, model.concepts) for key, text in texts.items() if text}


def _add_concepts(model: StableDiffusion, source: Path, file_name: str) -> None:
    named = source / file_name
    for concept in read_concepts(named if named.is_file() else source):
        model.add_concept(concept)


def main() -> None:
    """Run as a process of a trial on a cluster."""
    run_trial(generate_grid)


if __name__ == "__main__":
    main()
