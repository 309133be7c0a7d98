"""What names a model: a folder, a file, or an id on the hub, and the token for it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

log = logging.getLogger(__name__)

PLACEHOLDER = "YOUR_HF_AUTH_TOKEN_HERE"
VARIABLES = ("HF_TOKEN", "HF_AUTH_TOKEN")
FILES = (".safetensors", ".ckpt")  # a whole model in one


def hub_token(environment: Mapping[str, str]) -> str | bool | None:
    """Return the token, if there is a real one; a folder or a public model needs none.

    False keeps the hub's own client from sending the placeholder that it would find; None lets it
    use the token of a login.
    """
    values = {name: environment[name].strip() for name in VARIABLES if environment.get(name)}
    if PLACEHOLDER in values.values():
        log.warning(
            "%s is still the placeholder of the example and is not used; set your own token if "
            "the model needs one",
            next(name for name, value in values.items() if value == PLACEHOLDER),
        )
    real = [value for value in values.values() if value and value != PLACEHOLDER]
    return real[0] if real else False if PLACEHOLDER in values.values() else None


def hub_variable(data: Any) -> dict[str, str]:
    """Return the YAML's `data.secrets.hf_token`, as the variable in which the hub's client looks.

    Determined hides what lies there; a variable of the YAML is shown in the log of every task.
    """
    secrets = data.get("secrets") if isinstance(data, Mapping) else None
    token = secrets.get("hf_token") if isinstance(secrets, Mapping) else None
    if token and set(str(token)) == {"*"}:  # in a config that was copied from the Web UI
        log.warning("data.secrets.hf_token is hidden, not a token: put yours in again, if needed")
        return {}
    # What is still the example's takes nobody's token, nor that of a login, away.
    return {VARIABLES[0]: str(token)} if token and token != PLACEHOLDER else {}


def is_exposed(variables: Mapping[str, str], environment: Any) -> bool:
    """Return whether the YAML's `environment`, which everybody sees, has the token in it."""
    tokens = {variables[name].strip() for name in VARIABLES if variables.get(name)}
    return any(token in str(environment) for token in tokens - {PLACEHOLDER, ""})


def folder_or_hub_id(name: str) -> str:
    """Return the folder's path, or the name as it is where it can only be an id."""
    folder = Path(name).expanduser()
    named_like_a_file = folder.suffix in FILES
    looks_like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if (looks_like_a_path or named_like_a_file) and not folder.is_dir():
        raise ValueError(f"no such {'file' if named_like_a_file else 'folder'}")
    return str(folder) if folder.is_dir() else name


def model_folder(folder: Path) -> Path | None:
    """Return where the model lies in a folder, which may be a checkpoint's; None if there is none.

    Diffusers' layout has a folder for each part, and the UNet is what no model is without.
    """
    places = (folder, folder / "export")
    return next((place for place in places if (place / "unet").is_dir()), None)


def _model(name: str) -> str:
    file = Path(name).expanduser()
    return str(file) if file.is_file() else _of_a_model(name)


def _configs(name: str) -> str:
    if Path(name).expanduser().is_file():
        raise ValueError("is a file; the folder, or the hub id, of a model is wanted")
    return _of_a_model(name)


def _of_a_model(name: str) -> str:
    name = folder_or_hub_id(name)
    if Path(name).is_dir() and not model_folder(Path(name)):
        raise ValueError("the folder holds no model in diffusers' layout (no unet/ in it)")
    return name


ModelName = Annotated[str, Field(min_length=1), AfterValidator(_model)]
ConfigName = Annotated[str, Field(min_length=1), AfterValidator(_configs)]
