"""A run: all that the loop works on, made from a config, a trial and a checkpoint."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from detsd.batches import Batches, ClassSamples
from detsd.checkpoints import read_export, words_beside
from detsd.compiling import PASSES_OF_SAMPLE, chosen, compile_modules
from detsd.concepts import Concept
from detsd.config import ConfigError, FinetuneConfig, TrainingConfig, hub_token
from detsd.critic import Critic, open_critic
from detsd.data import Example
from detsd.earlystop import Stopper, early_stop
from detsd.encoding import encode_examples
from detsd.kept import open_model
from detsd.methods import Method, attach
from detsd.model import StableDiffusion
from detsd.optimization import build_optimizer
from detsd.prior import class_samples
from detsd.rarity import warn_of_common_words
from detsd.resume import read_state
from detsd.samples import Samples
from detsd.starts import starting_concepts
from detsd.trial import Checkpoint, Trial

log = logging.getLogger(__name__)

# A CPU gains nothing from larger pieces of a large UNet, and runs out of memory with them.
LARGE_UNET = 100_000_000
HIGH_RATE = 1e-4  # for all weights of such a one


@dataclass
class Run:
    """A run between two steps: what the loop works on, and the step that it has come to."""

    config: TrainingConfig
    base_model: str
    trial: Trial
    model: StableDiffusion
    method: Method
    optimizer: torch.optim.Optimizer
    batches: Batches
    samples: Samples
    critic: Critic
    stopper: Stopper
    sample_freq: int
    target: int
    step: int
    reviewed: bool  # whether the samples and metrics that were due at this step are there
    first_loss: float | None  # the validation loss before the first step
    loss: float | None = None  # and the last one that this process saw


def prepare(
    config: FinetuneConfig,
    trial: Trial,
    examples: Sequence[Example],
    checkpoint: Checkpoint | None,
) -> Run:
    """Return the run, at step 0 or where its own checkpoint left off."""
    training = config.training
    batch_size = effective_batch(training, trial)
    precision = _precision(training, trial.device)
    model = open_model(
        config.model,
        trial.device,
        # Weights that learn are no other trial's.
        keep=not (trial.is_last or config.method.learns_weights),
        channels_last=trial.device.type == "cuda" and not config.method.learns_weights,
        # Weights that learn are in full precision, whatever they compute in.
        precision="fp32" if config.method.learns_weights else precision,
        forward_process=training.forward_process,
        token=hub_token(os.environ),
    )
    words = config.concepts.words if config.method.learns_vectors else ()
    beside = words_beside(config.model.pretrained_model_name_or_path)
    learnt = {word.name for word in words}
    know_words(config, model, [word for word in beside if word.name not in learnt])
    size = _picture_size(config, model)
    own = checkpoint.path if checkpoint and checkpoint.own else None
    prior = class_samples(config, model, size, trial, own)  # before anything is learnt
    batches = _batches(config, trial, examples, model, size, batch_size, prior)
    warn_of_common_words(config, model)
    lent = read_export(checkpoint.path) if checkpoint and not checkpoint.own else None
    concepts = starting_concepts(words, model, own, lent, beside)
    method = attach(config, concepts, model, half=precision == "bf16")
    if lent:
        method.start_from(lent)
    warn_of_high_rate(config, model, batch_size)
    if training.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    optimizer = build_optimizer(training, method.parameter_groups())
    step = 0
    noted: dict[str, Any] = {}
    if checkpoint and checkpoint.own:
        base_model = config.model.pretrained_model_name_or_path
        now = {"base_model": base_model, "batch_size": batch_size, "processes": trial.size}
        step, noted = read_state(
            checkpoint.path, method=method, optimizer=optimizer, config=training, run=now
        )
    left = (target_step(training, trial) - step) * batch_size
    passes = left / trial.size * PASSES_OF_SAMPLE
    compile_modules(model.modules, chosen(training.compile, model.device, passes))
    samples = Samples(config.inference, config.sample_prompts, model, trial)
    critic = open_critic(config, examples, model.size, samples.images, trial, noted)
    stopper = early_stop(training.early_stop, method, noted.get("early_stop", {}), critic.basis)
    return Run(
        config=training,
        base_model=config.model.pretrained_model_name_or_path,
        trial=trial,
        model=model,
        method=method,
        optimizer=optimizer,
        batches=batches,
        samples=samples,
        critic=critic,
        stopper=stopper,
        sample_freq=config.inference.sample_freq or training.checkpoint_freq,
        target=target_step(training, trial),
        step=step,
        reviewed=step > 0 and noted.get("reviewed", True),
        first_loss=noted.get("first_loss"),
    )


def effective_batch(config: TrainingConfig, trial: Trial) -> int:
    """Return the samples a step, however many processes there really are."""
    return config.train_batch_size * config.gradient_accumulation_steps * trial.slots


def target_step(config: TrainingConfig, trial: Trial) -> int:
    """Return the step to stop at: a searcher's length caps it, or stands in where none is said."""
    if trial.max_length is None:
        return config.num_sgd_steps
    if "num_sgd_steps" not in config.model_fields_set:
        return trial.max_length
    return min(config.num_sgd_steps, trial.max_length)


def know_words(config: FinetuneConfig, model: StableDiffusion, words: Sequence[Concept]) -> None:
    """Let the model know those words that it was learnt with, as it does when it is drawn with."""
    for word in words:
        for rows in model.add_concept(word).values():
            rows.requires_grad_(False)
    if words and config.method.learns_weights:
        names = ", ".join(word.name for word in words)
        log.warning("the model's own %s: known here, and not in what is exported", names)


def warn_of_high_rate(config: FinetuneConfig, model: StableDiffusion, batch_size: int) -> None:
    """Warn of a rate that is meant for vectors where all weights of a large model learn."""
    training = config.training
    rate = training.learning_rate * (batch_size if training.scale_lr else 1)
    if config.method.learns_weights and rate > HIGH_RATE and _is_large(model):
        log.warning(
            "a learning rate of %g, after scale_lr, is high for all weights of a model: "
            "dreambooth.yaml has 1e-6",
            rate,
        )


def _precision(config: TrainingConfig, device: torch.device) -> str:
    if config.precision != "auto":
        return config.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _batches(
    config: FinetuneConfig,
    trial: Trial,
    examples: Sequence[Example],
    model: StableDiffusion,
    size: int,
    batch_size: int,
    prior: ClassSamples | None,
) -> Batches:
    latents = encode_examples(model, examples, config.concepts, size, trial.deal)
    return Batches(
        examples,
        type(latents)(*(column.to(trial.device) for column in latents)),
        batch_size=batch_size,
        micro_batch_size=config.training.micro_batch_size
        or _micro_batch_size(model, -(-batch_size // trial.size) * (2 if prior else 1)),
        num_timesteps=len(model.schedule.alphas_cumprod),
        flip_p=config.concepts.flip_p,
        seed=config.training.train_seed,
        prior=prior,
    )


def _picture_size(config: FinetuneConfig, model: StableDiffusion) -> int:
    size = config.concepts.img_size or model.size
    if size % model.vae_factor:
        raise ConfigError([f"concepts.img_size: {size} is no multiple of {model.vae_factor}"])
    return size


def _micro_batch_size(model: StableDiffusion, share: int) -> int:
    return 1 if _is_large(model) and model.device.type == "cpu" else share


def _is_large(model: StableDiffusion) -> bool:
    return sum(p.numel() for p in model.unet.parameters()) > LARGE_UNET
