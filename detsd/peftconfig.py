"""The peft config that diffusers may leave beside the tensors of an adapter."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

METADATA_KEY = "lora_adapter_metadata"
PARTS = ("unet", "text_encoder", "text_encoder_2")
# Peft takes these for regular expressions. A stranger's can keep a process busy for ever, so only
# what its own tools write is taken: a module's name or the end of one, and "^" before a whole name.
_NAME = re.compile(r"\^?\w+(\.\w+)*")


class Alphas(NamedTuple):
    """What a config says of the modules of one model."""

    of_all: float
    by_name: Mapping[
        str, tuple[int, float]
    ]  # of its patterns, which the first wins: (place, alpha)
    rank_stabilised: bool

    def of(self, path: str, rank: int) -> float:
        """Return the alpha of the module "text_model.encoder.layers.0.mlp.fc1" and the like."""
        # Our names may have a segment that the model had not.
        wholes = (f"^{path}", f"^{path.removeprefix('text_model.')}")
        ends = (path[place:] for place, letter in enumerate(f".{path}") if letter == ".")
        fitting = [self.by_name[name] for name in (*wholes, *ends) if name in self.by_name]
        alpha = min(fitting)[1] if fitting else self.of_all
        # Rank-stabilised: the change is alpha / √rank there.
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


def alphas_in(config: Mapping[str, Any]) -> dict[str, Alphas]:
    """Return the alphas of each part that the config tells of, or raise a ValueError."""
    # Of one model it has no prefixes, and that is a UNet: text encoders are saved by pipelines.
    prefixes = {part: f"{part}." for part in PARTS}
    if "lora_alpha" in config:
        prefixes["unet"] = ""
    try:
        return {
            part: _alphas(config, prefix)
            for part, prefix in prefixes.items()
            if f"{prefix}lora_alpha" in config
        }
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"its {METADATA_KEY} cannot be used ({error})") from None


def _alphas(config: Mapping[str, Any], prefix: str) -> Alphas:
    by_name: dict[str, tuple[int, float]] = {}
    patterns = config.get(f"{prefix}alpha_pattern") or {}
    for place, (pattern, alpha) in enumerate(patterns.items()):
        by_name.setdefault(_name_in(pattern), (place, float(alpha)))
    stabilised = bool(config.get(f"{prefix}use_rslora"))
    return Alphas(float(config[f"{prefix}lora_alpha"]), by_name, stabilised)


def _name_in(pattern: str) -> str:
    name = pattern.removesuffix("$").replace(r"\.", ".")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{pattern!r:.100} in alpha_pattern is a regular expression, of which none is tried; "
            "names of modules, or their ends, are wanted"
        )
    return name
