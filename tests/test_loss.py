"""The denoising loss against diffusers' own forward process, and the formulas of the papers."""

from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler

from detsd.loss import Schedule, add_noise, denoising_errors, min_snr_weights, target
from detsd.model import StableDiffusion

KINDS = ("epsilon", "v_prediction", "sample")
STEPS = torch.tensor([0, 1, 250, 500, 998, 999])


def scheduler(zero_terminal_snr: bool = False) -> DDPMScheduler:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDPMScheduler(**betas, rescale_betas_zero_snr=zero_terminal_snr)


def schedule(kind: str = "epsilon", zero_terminal_snr: bool = False) -> Schedule:
    return Schedule(scheduler(zero_terminal_snr).alphas_cumprod, kind)


@pytest.fixture
def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and noise of six samples."""
    numbers = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, len(STEPS), 4, 3, 3, generator=numbers)
    return latents, noise


Tensors = tuple[torch.Tensor, torch.Tensor]


def test_noise_is_added_as_diffusers_does(tensors: Tensors) -> None:
    wanted = scheduler().add_noise(*tensors, STEPS)
    assert torch.allclose(add_noise(*tensors, STEPS, schedule()), wanted, atol=1e-6)


def test_the_target_is_what_diffusers_calls_it(tensors: Tensors) -> None:
    latents, noise = tensors
    velocity = scheduler().get_velocity(latents, noise, STEPS)
    assert torch.equal(target(latents, noise, STEPS, schedule("epsilon")), noise)
    assert torch.equal(target(latents, noise, STEPS, schedule("sample")), latents)
    assert torch.allclose(
        target(latents, noise, STEPS, schedule("v_prediction")), velocity, atol=1e-6
    )


@pytest.mark.parametrize(("family", "kind"), [("sd1", KINDS[0]), ("sd2", KINDS[1])])
def test_a_models_own_forward_process_is_used(
    load: Callable[..., StableDiffusion], family: str, kind: str
) -> None:
    found = load(family).schedule
    assert torch.allclose(found.alphas_cumprod, schedule().alphas_cumprod)
    assert found.prediction_type == kind


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_the_papers(gamma: float) -> None:
    alphas = schedule().alphas_cumprod[STEPS].double()
    ratio = alphas / (1 - alphas)
    clipped = ratio.clamp(max=gamma)
    wanted = {"epsilon": clipped / ratio, "v_prediction": clipped / (ratio + 1), "sample": clipped}
    for kind in KINDS:
        found = min_snr_weights(STEPS, schedule(kind), gamma)
        assert torch.allclose(found.double(), wanted[kind], rtol=1e-5)
    assert wanted["epsilon"].min() < 0.1  # the clipping is met on the way
    assert wanted["epsilon"].max() == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_is_finite_where_nothing_is_left_of_the_picture(
    tensors: Tensors, kind: str, gamma: float | None
) -> None:
    process = schedule(kind, zero_terminal_snr=True)
    assert process.alphas_cumprod[-1] == 0
    scale = torch.ones((), requires_grad=True)
    weights = torch.full((len(STEPS),), 1 / len(STEPS))
    loss = denoising_errors(lambda x, _: x * scale, *tensors, STEPS, process, weights, gamma).sum()
    loss.backward()
    assert loss.isfinite()
    assert scale.grad is not None
    assert scale.grad.isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_prediction_costs_nothing(tensors: Tensors, kind: str) -> None:
    process = schedule(kind)
    wanted = target(*tensors, STEPS, process)
    weights = torch.ones(len(STEPS))
    assert denoising_errors(lambda *_: wanted, *tensors, STEPS, process, weights, 5.0).sum() == 0


def test_the_loss_is_the_weighted_sum_of_mean_squares(tensors: Tensors) -> None:
    weights = torch.arange(1.0, 7.0)
    loss = denoising_errors(lambda x, _: 0 * x, *tensors, STEPS, schedule(), weights).sum()
    squares = tensors[1].square().flatten(1).mean(1)
    assert loss.item() == pytest.approx((weights * squares).sum().item(), rel=1e-6)


def test_the_model_is_given_the_noisy_latents_and_their_timesteps(tensors: Tensors) -> None:
    seen = []

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append((noisy, timesteps))
        return noisy

    denoising_errors(predict, *tensors, STEPS, schedule(), torch.ones(len(STEPS)))
    ((noisy, timesteps),) = seen
    assert torch.equal(noisy, add_noise(*tensors, STEPS, schedule()))
    assert torch.equal(timesteps, STEPS)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_the_shares_of_pieces_add_up(tensors: Tensors, cut: int, gamma: float | None) -> None:
    weights = torch.full((len(STEPS),), 1 / len(STEPS))

    def loss(piece: slice) -> torch.Tensor:
        latents, noise = (tensor[piece] for tensor in tensors)
        process = schedule("v_prediction")
        return denoising_errors(
            lambda x, t: x.sin(), latents, noise, STEPS[piece], process, weights[piece], gamma
        ).sum()

    parts = loss(slice(None, cut)) + loss(slice(cut, None))
    assert parts.item() == pytest.approx(loss(slice(None)).item(), rel=1e-6)


def test_a_prediction_in_half_precision_gives_a_loss_in_full(tensors: Tensors) -> None:
    weights = torch.ones(len(STEPS))
    loss = denoising_errors(lambda x, _: x.bfloat16(), *tensors, STEPS, schedule(), weights)
    assert loss.dtype == torch.float32


def test_a_teacher_says_what_is_wanted_of_the_noisy_latents(tensors: Tensors) -> None:
    weights = torch.ones(len(STEPS))
    errors = denoising_errors(
        lambda x, _: x.sin(), *tensors, STEPS, schedule(), weights, teach=lambda x, _: x.sin()
    )
    assert torch.equal(errors, torch.zeros(len(STEPS)))
