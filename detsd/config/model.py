"""What a YAML may say of the model: which one it is, and what of it is loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detsd.config.hub import ConfigName, ModelName
from detsd.config.read import Section


class NamedModel(Section):
    """Which Stable Diffusion it is."""

    pretrained_model_name_or_path: ModelName = "CompVis/stable-diffusion-v1-4"
    """A hub id, a folder in diffusers' layout, or a single file (`.safetensors`, `.ckpt`)."""
    config_name_or_path: ConfigName | None = None
    """A folder or hub id whose configs and tokenizer belong to the single file; when absent, those
    that diffusers infers for a file of its kind, from the hub."""

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Configs for a model that has its own."""
        name = str(raw.get("pretrained_model_name_or_path", ""))
        if raw.get("config_name_or_path") is not None and not Path(name).expanduser().is_file():
            yield "config_name_or_path", f"is for a single file, and {name} is none"


class ModelConfig(NamedModel):
    """Which Stable Diffusion is taught."""

    revision: str | None = None
    """A branch, tag or commit on the hub."""
    variant: str | None = None
    """Which weight files to load, as in `fp16`."""
