"""How much is learnt so far: the loss on fixed samples, and how far it all moved."""

import logging

import torch

from detsd.batches import Batch
from detsd.loss import denoising_errors
from detsd.model import StableDiffusion
from detsd.run import Run
from detsd.samples import Drawn

log = logging.getLogger(__name__)


def validate(run: Run, drawn: Drawn) -> dict[str, float]:
    """Return the metrics that searchers rank by; `steps` is what ASHA may measure its time in."""
    run.loss = validation_loss(run)
    return {"loss": run.loss, **run.critic.scores(drawn), "steps": run.step}


@torch.no_grad()
def validation_loss(run: Run) -> float:
    """Return the plain denoising loss on a fixed set of pictures, timesteps and noise."""
    total = torch.zeros((), device=run.trial.device)
    for batch in run.batches.validation(run.trial.rank, run.trial.size):
        total += _batch_loss(run.model, batch)
    return run.trial.total(total).item()


def _batch_loss(model: StableDiffusion, batch: Batch) -> torch.Tensor:
    conditioning = model.encode_prompts(batch.captions)
    return denoising_errors(
        lambda noisy, steps: model.predict(noisy, steps, conditioning, batch.origins),
        batch.latents,
        batch.noise,
        batch.timesteps,
        model.schedule,
        batch.weights,
    ).sum()


def conclude(run: Run) -> None:
    """Say, with figures, whether anything was learnt."""
    if run.first_loss is None or run.loss is None:
        return
    with run.stopper.best():
        distances = run.method.moved()
    for what, share, least in distances:
        log.info("%s moved by %.3g%% of their first length", what, 100 * share)
        if share < least:
            log.warning("that is hardly at all: more steps, or a higher learning rate?")
    log.info("the validation loss went from %.4f to %.4f", run.first_loss, run.loss)
    if run.loss >= run.first_loss:
        log.warning("it did not fall: more steps, or a lower training.learning_rate?")
