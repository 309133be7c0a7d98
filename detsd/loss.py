"""The denoising loss. Tensors in, a number a sample out; no file or config is touched here."""

from collections.abc import Callable
from typing import NamedTuple

import torch

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # noisy, timesteps → prediction
Teach = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # noisy, the truth → what is wanted


class Schedule(NamedTuple):
    """The forward process, and what the model predicts of it."""

    alphas_cumprod: torch.Tensor  # (timesteps,)
    prediction_type: str  # epsilon, v_prediction or sample


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, schedule: Schedule
) -> torch.Tensor:
    """Return the latents as they are at `timesteps` of the forward process."""
    signal, spread = _scales(timesteps, schedule)
    return signal * latents + spread * noise


def target(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, schedule: Schedule
) -> torch.Tensor:
    """Return what a perfect model would predict."""
    if schedule.prediction_type == "epsilon":
        return noise
    if schedule.prediction_type == "sample":
        return latents
    signal, spread = _scales(timesteps, schedule)
    return signal * noise - spread * latents


def denoising_errors(
    predict: Predict,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    schedule: Schedule,
    weights: torch.Tensor,
    snr_gamma: float | None = None,
    teach: Teach = lambda noisy, wanted: wanted,
) -> torch.Tensor:
    """Return each sample's weight × mean squared error of the prediction: (samples,).

    Weights are shares of a mean. `teach` may put another's prediction in place of the truth.
    """
    noisy = add_noise(latents, noise, timesteps, schedule)
    wanted = teach(noisy, target(latents, noise, timesteps, schedule))
    error = (predict(noisy, timesteps).float() - wanted).square().mean(dim=(1, 2, 3))
    if snr_gamma is not None:
        weights = weights * min_snr_weights(timesteps, schedule, snr_gamma)
    return weights * error


def min_snr_weights(timesteps: torch.Tensor, schedule: Schedule, snr_gamma: float) -> torch.Tensor:
    """Return min(SNR, γ) in the units of what is predicted (Hang et al. 2023)."""
    alphas = schedule.alphas_cumprod[timesteps]
    ratio = alphas / (1 - alphas)
    divisor = {"epsilon": ratio, "v_prediction": ratio + 1, "sample": torch.ones_like(ratio)}
    clipped = ratio.clamp(max=snr_gamma)
    # Where nothing is left of the picture, epsilon's ratio is 0/0, and its limit 1.
    return torch.where(
        ratio > 0,
        clipped / divisor[schedule.prediction_type],
        float(schedule.prediction_type == "epsilon"),
    )


def _scales(timesteps: torch.Tensor, schedule: Schedule) -> tuple[torch.Tensor, torch.Tensor]:
    alphas = schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return alphas.sqrt(), (1 - alphas).sqrt()
