"""The sampler: requests become images, as many at once as share their settings and fit."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from PIL import Image

from detsd import schedulers
from detsd.config import ConfigError
from detsd.denoise import Prompts, Tick, denoise, size
from detsd.denoise import build_scheduler as build_scheduler
from detsd.model import StableDiffusion
from detsd.request import Request as Request
from detsd.request import RequestError, check_requests
from detsd.request import Settings as Settings

log = logging.getLogger(__name__)

Flag = Callable[[Image.Image], list[str]]

# Latents, along height × width and twice with guidance, that a batch has where nobody says: 32
# images of SD 1.x on a GPU. A CPU is no faster with more than 16 images of the demo's.
AT_ONCE = {"cuda": 262_144, "cpu": 8_192}
DECODED_AT_ONCE = 4_096  # an image of SD 1.x, which takes the VAE far more memory than the UNet

# The latents that fit where a batch has run out of memory.
_fitting: WeakKeyDictionary[StableDiffusion, int] = WeakKeyDictionary()


def generate(
    model: StableDiffusion,
    requests: Sequence[Request],
    batch_size: int | None = None,
    *,
    flag: Flag | None = None,
    tick: Tick = lambda images: None,
) -> Iterator[tuple[int, Image.Image]]:
    """Yield (place in requests, image) as they are made; no `batch_size` is as many as fit.

    Requests that can share a batch do, so the order may be another. An image's share of its batch's
    `seconds`, and the `flags` that `flag` finds, are put into its info; `tick` hears of each step,
    as a share of the images.
    """
    check_requests(requests, size_unit(model), model.concepts)
    return _generate(model, requests, batch_size, flag, tick)


def size_unit(model: StableDiffusion) -> int:
    """Return what width and height have to be multiples of."""
    return model.vae_factor * 2 ** (len(model.unet.config.block_out_channels) - 1)


def check_scheduler(
    settings: Settings, key: str, forward_process: Mapping[str, object] | None = None
) -> None:
    """Refuse arguments that the scheduler does not take, before a model is loaded."""
    name, arguments, steps = settings.scheduler, settings.scheduler_kwargs, settings.steps
    schedulers.known_scheduler(name)
    try:
        schedulers.check(name, arguments, steps, forward_process)
    except schedulers.SchedulerError as error:
        raise ConfigError([f"{key}: {error}"]) from None


def batches(requests: Sequence[Request], most: Callable[[Request], int]) -> Iterator[list[int]]:
    """Yield the places of requests that go together, each batch when it is full."""
    waiting: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        key = json.dumps([request.settings, request.guided], sort_keys=True, default=repr)
        waiting.setdefault(key, []).append(place)
        if len(waiting[key]) >= most(request):
            yield waiting.pop(key)
    yield from waiting.values()


def to_levels(pixels: torch.Tensor) -> torch.Tensor:
    """Return the bytes of (images, 3, height, width) pixels, -1…1: (images, height, width, 3)."""
    levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()


def _generate(
    model: StableDiffusion,
    requests: Sequence[Request],
    batch_size: int | None,
    flag: Flag | None,
    tick: Tick,
) -> Iterator[tuple[int, Image.Image]]:
    prompts = Prompts(model)

    def most(request: Request) -> int:
        return _most(model, request, batch_size)

    with model.vae_awake():
        for places in batches(requests, most):
            while places:
                some = places[: most(requests[places[0]])]
                begun = time.monotonic()
                images = _try(model, [requests[place] for place in some], prompts, tick)
                if images is None:
                    continue
                seconds = (time.monotonic() - begun) / len(images)
                places = places[len(some) :]
                for place, image in zip(some, images, strict=True):
                    image.info["seconds"] = seconds
                    if flag is not None and (flags := flag(image)):
                        image.info["flags"] = flags
                    yield place, image


def _try(
    model: StableDiffusion, requests: Sequence[Request], prompts: Prompts, tick: Tick
) -> list[Image.Image] | None:
    """Return the images; if they do not fit, nothing, and the next batch will be smaller."""
    try:
        return _draw(model, requests, prompts, tick)
    except torch.OutOfMemoryError as error:
        if len(requests) == 1:
            width, height = size(model, requests[0].settings)
            raise RequestError(
                f"not even one image of {width} × {height} fits into the memory of {model.device}: "
                "a smaller width and height are wanted"
            ) from error
    # Out here the failed attempt's tensors, which the error kept alive, are gone.
    _fitting[model] = len(requests) // 2 * _weight(model, requests[0])
    log.info("out of memory: on with batches of %d", len(requests) // 2)
    return None


def _draw(
    model: StableDiffusion, requests: Sequence[Request], prompts: Prompts, tick: Tick
) -> list[Image.Image]:
    latents = denoise(model, requests, prompts, tick)
    at_once = max(1, DECODED_AT_ONCE // latents[0, 0].numel())
    levels = [to_levels(model.decode_latents(some)) for some in latents.split(at_once)]
    # The device is waited for once a batch, and a quarter of the pixels' bytes come from it.
    return [Image.fromarray(one) for one in torch.cat(levels).cpu().numpy()]


def _most(model: StableDiffusion, request: Request, batch_size: int | None) -> int:
    weight = _weight(model, request)
    at_once = AT_ONCE.get(model.device.type, AT_ONCE["cpu"])
    wanted = batch_size or max(1, at_once // weight)
    return min(wanted, max(1, _fitting[model] // weight)) if model in _fitting else wanted


def _weight(model: StableDiffusion, request: Request) -> int:
    width, height = size(model, request.settings)
    return width * height // model.vae_factor**2 * (2 if request.guided else 1)
