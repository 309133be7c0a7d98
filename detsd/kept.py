"""The model that this process has loaded last, kept for a trial to come that wants the same."""

import copy
import gc
from typing import Any

import torch
from torch import nn

from detsd import fingerprint
from detsd.checkpoints import find_model
from detsd.config import ModelConfig
from detsd.model import StableDiffusion
from detsd.pretrained import load_model

_kept: dict[str, StableDiffusion] = {}  # as it was loaded, by what was asked for: one at most


def open_model(
    config: ModelConfig, device: torch.device, *, keep: bool, **wanted: Any
) -> StableDiffusion:
    """Load a model, or take the one that was kept of the same files.

    With `keep` it is kept, and what is returned computes with its weights, which may not learn
    then; anything else may be done to it.
    """
    if not (keep or _kept):
        return load_model(config, device, **wanted)
    sources = (config.pretrained_model_name_or_path, config.config_name_or_path)
    files = [fingerprint.of_model(find_model(name)) for name in sources if name]
    asked = repr((config, device, wanted, files))
    model = _kept.pop(asked, None)
    if model is None:
        # Before the next is there: two may be more than fits.
        _kept.clear()
        gc.collect()
        torch.cuda.empty_cache()
        model = load_model(config, device, **wanted)
    if not keep:
        return model
    _kept[asked] = model
    return _twin(model)


def _twin(model: StableDiffusion) -> StableDiffusion:
    """Return modules and tokenizers of their own over the same weights."""
    memo: dict[int, Any] = {}
    for module in (*model.modules.values(), model.vae):
        memo |= {id(buffer): buffer for buffer in module.buffers()}
        for weight in module.parameters():
            memo[id(weight)] = nn.Parameter(weight.detach(), requires_grad=False)
    return copy.deepcopy(model, memo)
