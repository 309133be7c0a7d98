"""Which parts of a model are compiled, if that pays; what was compiled is kept for other runs."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from detsd.recording import record

log = logging.getLogger(__name__)

CACHE = Path(".cache") / "detsd" / "compiled"  # below the home folder
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# What a model has many of, and compiles once for all of a shape.
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D", "CLIPEncoderLayer")
SHAPES = 64  # of one kind of block; torch gives up after 8 of them
# A guess until it is measured: blocks take half a minute, and save a fifth of the time.
PASSES_THAT_PAY = 60_000
PASSES_OF_SAMPLE = 3  # the way back takes as long as two


def chosen(wanted: str, device: torch.device, passes: float) -> str:
    """Return what to compile for so many passes of an image through the UNet."""
    if wanted != "auto":
        return wanted
    # On a CPU a run's last bit may not depend on how long it was meant to be.
    return "blocks" if device.type == "cuda" and passes >= PASSES_THAT_PAY else "off"


def compile_modules(modules: Mapping[str, nn.Module], what: str) -> None:
    """Compile the modules, or their blocks, in place, each when it is first used."""
    if what == "off":
        return
    if what == "graph":
        record(modules["unet"])
        return
    os.environ.setdefault(CACHE_VARIABLE, str(Path.home() / CACHE))
    settings = torch._dynamo.config
    limit = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"
    setattr(settings, limit, SHAPES)  # its name until torch 2.7
    # Shapes of an earlier trial in this process would count, too, and have others compiled for any
    # shape, with other last bits. The cache has what is the same.
    torch._dynamo.reset()
    parts = [part for module in modules.values() for part in _parts(module, what)]
    for part in parts:
        part.compile()
    log.info("the first steps are slow: %d parts of the model are compiled (%s)", len(parts), what)


def _parts(module: nn.Module, what: str) -> list[nn.Module]:
    if what == "full":
        return [module]
    return [part for part in module.modules() if type(part).__name__ in BLOCKS]
