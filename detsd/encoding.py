"""From pictures to latents by a model's VAE, which wakes only for what no run has shown it."""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch

from detsd import fingerprint
from detsd.arithmetic import arithmetic
from detsd.config import ConceptsConfig
from detsd.data import Deal, Example, Latents, cache_latents
from detsd.latentstore import LatentStore, find_folder
from detsd.model import StableDiffusion

log = logging.getLogger(__name__)

FORMAT = 1  # higher when encode_images makes something else of the same
DECODER = ("decoder.", "post_quant_conv.")  # another one makes the same latents


def encode_examples(
    model: StableDiffusion,
    examples: Sequence[Example],
    config: ConceptsConfig,
    size: int,
    deal: Deal = map,
) -> Latents:
    """Return what the VAE makes of every variant of the examples, or has made in another run."""
    with ExitStack() as held:
        wake = cache(lambda: held.enter_context(model.vae_awake()))

        def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            wake()
            return model.encode_images(pixels)

        folder = find_folder(config.latents_dir)
        if folder is None:
            return cache_latents(examples, encode, config, size, deal)
        store = LatentStore(folder, _follows(model))
        tally = _Tally(store, deal)
        latents = cache_latents(examples, store.before(encode), config, size, tally.deal)
    log.info(
        "%d pictures: %d of %d sets of latents found in %s",
        *(len(examples), tally.found, tally.found + tally.made, folder),
    )
    if tally.made:
        store.trim()
    return latents


class _Tally:
    """How much was found and made, by all processes that the work was dealt to."""

    def __init__(self, store: LatentStore, deal: Deal):
        self.found = 0
        self.made = 0
        self._store = store
        self._deal = deal

    def deal(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        """Deal the work, and count what became of it wherever it was done."""

        def counted(item: Any) -> tuple[Any, int, int]:
            found, made = self._store.found, self._store.made
            return work(item), self._store.found - found, self._store.made - made

        for done, found, made in self._deal(counted, items):
            self.found += found
            self.made += made
            yield done


def _follows(model: StableDiffusion) -> str:
    """Return all, but for the pixels, that an encoding follows from."""
    settings = {key: str(value) for key, value in model.vae.config.items() if key[0] != "_"}
    weights = {
        name: weight
        for name, weight in model.vae.state_dict().items()
        if not name.startswith(DECODER)
    }
    follows = {
        "format": FORMAT,
        "vae": fingerprint.of_weights(weights),
        "settings": settings,
        **arithmetic(model.device),
    }
    return json.dumps(follows, sort_keys=True)
