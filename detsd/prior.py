"""What the model is not to forget, as latents: encoded once, and kept in checkpoints."""

import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detsd import fingerprint
from detsd.batches import ClassSamples
from detsd.classimages import digest, made_pictures, own_pictures
from detsd.config import FinetuneConfig
from detsd.data import Example, Latents
from detsd.encoding import encode_examples
from detsd.model import StableDiffusion
from detsd.trial import Trial, TrialError

log = logging.getLogger(__name__)

KEPT = "resume/class_latents.safetensors"
FOLLOWS = "follows"  # the key of what they follow from


def class_samples(
    config: FinetuneConfig, model: StableDiffusion, size: int, trial: Trial, own: Path | None
) -> ClassSamples | None:
    """Return what the model, with nothing learnt yet, knows of the class; None if nobody asks.

    What the run's own checkpoint has of it is taken from there.
    """
    prior = config.prior
    if prior is None or not prior.weight:
        return None
    if prior.kind == "distill":
        return ClassSamples(prior.class_prompt, prior.weight, None, "")
    # All of each picture, once: there are enough of them.
    whole = config.concepts.model_copy(update={"crop_scale": None, "flip_p": 0.0})
    follows = trial.ask(lambda: _follows(config, model, size))
    count = prior.num_class_images if prior.class_dir is None else None
    name = digest({**follows, **_prepared(config), "count": count})
    computed = {"computed": [str(model.dtype), model.device.type]}
    latents = _read_kept(own / KEPT, name) if own else None
    if latents is None:
        if prior.class_dir is not None:
            paths = own_pictures(prior.class_dir)
        else:
            paths = made_pictures(prior, model, size, trial, {**follows, **computed})
        examples = [Example(path, (prior.prompt_of(place),)) for place, path in enumerate(paths)]
        # By the chief alone: the others may be on machines where the pictures are not.
        latents = trial.ask(lambda: encode_examples(model, examples, whole, size))
    on_device = Latents(*(column.to(model.device) for column in latents))
    captions = tuple(prior.prompt_of(place) for place in range(len(on_device.mean)))
    return ClassSamples(captions, prior.weight, on_device, name)


def keep_latents(folder: Path, samples: ClassSamples | None) -> None:
    """Write the latents into a checkpoint, for a machine on which the pictures are not."""
    if samples is None or samples.latents is None:
        return
    tensors = {name: one.cpu().contiguous() for name, one in samples.latents._asdict().items()}
    (folder / KEPT).write_bytes(save(tensors, {FOLLOWS: samples.follows}))


def _read_kept(path: Path, name: str) -> Latents | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(FOLLOWS) != name:
                log.warning("the pictures of the class are others since the checkpoint")
                return None
            return Latents(*(file.get_tensor(column) for column in Latents._fields))
    except SafetensorError as error:
        raise TrialError(
            f"{path} cannot be read ({error}); remove its checkpoint to go on from the one before"
        ) from None


def _follows(config: FinetuneConfig, model: StableDiffusion, size: int) -> dict[str, Any]:
    """Return all that the pictures of the class follow from."""
    prior, named = config.prior, config.model
    assert prior is not None
    configs = named.config_name_or_path
    follows = {
        "model": fingerprint.of_model(named.pretrained_model_name_or_path),
        "revision": named.revision,
        "variant": named.variant,
        "size": size,
        **({"configs": fingerprint.of_model(configs)} if configs else {}),
    }
    if prior.class_dir is not None:
        return {**follows, "pictures": fingerprint.of_folder(prior.class_dir)}
    return {
        **follows,
        "forward_process": {key: str(value) for key, value in model.scheduler_config.items()},
        "prompts": prior.class_prompt,
        "scheduler": prior.scheduler_name,
        "steps": prior.num_inference_steps,
        "guidance_scale": prior.guidance_scale,
        "first_seed": prior.generator_seed,
    }


def _prepared(config: FinetuneConfig) -> dict[str, Any]:
    """Return how the pictures are brought to their size."""
    return {
        "center_crop": config.concepts.center_crop,
        "interpolation": config.concepts.interpolation,
    }
