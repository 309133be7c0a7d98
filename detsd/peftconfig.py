"""The peft config that diffusers may leave beside the tensors of an adapter."""

import math
import re
from collections.abc import Mapping
from typing import Any

METADATA_KEY = "lora_adapter_metadata"


def alpha_of(module: str, rank: int, config: Mapping[str, Any]) -> float | None:
    """Return the alpha of "unet.conv_in" and the like, None where the config says nothing of it.

    A config that is damaged ends in a ValueError.
    """
    part, _, path = module.partition(".")
    # Of one model it has no prefixes, and that is a UNet: text encoders are saved by pipelines.
    prefix = "" if part == "unet" and "lora_alpha" in config else f"{part}."
    if f"{prefix}lora_alpha" not in config:
        return None
    # Our names may have a segment that the model had not; peft's patterns match the ends of names.
    names = (path, path.removeprefix("text_model."))
    try:
        alpha = float(config[f"{prefix}lora_alpha"])
        for pattern, other in (config.get(f"{prefix}alpha_pattern") or {}).items():
            if any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in names):
                alpha = float(other)
                break
    except (TypeError, AttributeError, re.error) as error:
        raise ValueError(f"its {METADATA_KEY} is damaged ({error})") from None
    # Rank-stabilised: the change is alpha / √rank there.
    return alpha * math.sqrt(rank) if config.get(f"{prefix}use_rslora") else alpha
