"""Teach Stable Diffusion new words: the public names, each loaded when it is first used."""

import logging
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The project does without torchvision; that transformers falls back to Pillow is meant.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)

# Nor is it of interest what bitsandbytes lacks for models of other kinds.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# Diffusers takes seconds to import; a typo in a YAML should not wait for it.
_HOMES = {
    "Adapter": "adapters",
    "Concept": "concepts",
    "DetSDTextualInversionPipeline": "compat",
    "DetSDTextualInversionTrainer": "compat",
    "Pipeline": "generate",
    "load_pipeline": "generate",
    "panel": "widgets",
    "read_adapter": "adapters",
    "read_concepts": "concepts",
    "sheet": "gallery",
    "write_adapter": "adapters",
    "write_concepts": "concepts",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
