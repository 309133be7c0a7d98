"""A whole model in a single file: its parts as modules, built by configs that lie elsewhere."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    infer_diffusers_model_type,
)

from detsd.reason import reason
from detsd.wholefile import FIRST, OPEN_CLIP, UNET, Tensors, read_whole_file

log = logging.getLogger(__name__)

_NAME = "pretrained_model_name_or_path"
# By diffusers' names for what files hold. It takes what it does not know for the first of them.
_KINDS = ("v1", "v2", "xl_base")
# Keys that say what the predictions are of, and whether the last timestep is noise alone.
_VELOCITY, _NO_SIGNAL, _OTHER_NOISE = "v_pred", "ztsnr", "edm_vpred.sigma_max"
# What files have and modules need not: the numbers of places, and what compares with pictures.
_NEEDLESS = ("position_ids", "logit_scale", "text_projection.weight")


class MisfitError(ValueError):
    """A model of another kind than can be taught here, or than its configs describe."""


def check_channels(name: str, channels: int) -> None:
    """Refuse a UNet that is told more than the noisy latents."""
    if channels != 4:
        raise MisfitError(
            f"{name}: its UNet takes {channels} channels, as inpainting models do; "
            "a text-to-image model (4 channels) is wanted"
        )


class SingleFile:
    """The file's tensors, and the folder or hub id that its configs and tokenizers are in."""

    def __init__(self, path: Path, configs: str | None, source: Mapping[str, Any]):
        self._path = path
        try:
            self._tensors = read_whole_file(path)
        except (ValueError, OSError) as error:
            raise MisfitError(f"{path}: {reason(error)}") from None
        check_channels(str(path), self._tensors[FIRST].shape[1])
        kind = self._kind()
        self.configs = configs or DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind][_NAME]
        self._source = source
        if kind == "v2" and configs is None:
            log.warning(
                "%s: it does not say whether it predicts velocity, as is assumed here, or noise; a "
                "config_name_or_path does",
                path,
            )

    @property
    def forward_process(self) -> dict[str, Any]:
        """What the file itself says of the noise, over what its configs say."""
        told: dict[str, Any] = {}
        if _VELOCITY in self._tensors:
            told["prediction_type"] = "v_prediction"
        if _NO_SIGNAL in self._tensors:
            told["rescale_betas_zero_snr"] = True
        return told

    def unet(self, dtype: torch.dtype) -> Any:
        """Return the UNet."""
        module = self._empty(UNet2DConditionModel, "unet")
        found = self._converted("unet", lambda: convert_ldm_unet_checkpoint(*self._of(module)))
        # The converter leaves out what it has no name for.
        taken = {id(one) for one in found.values()}
        left = {
            key: one
            for key, one in self._tensors.items()
            if key.startswith(UNET) and id(one) not in taken
        }
        return self._filled("unet", module, {**found, **left}, dtype)

    def vae(self, dtype: torch.dtype) -> Any:
        """Return the VAE."""
        module = self._empty(AutoencoderKL, "vae")
        found = self._converted("vae", lambda: convert_ldm_vae_checkpoint(*self._of(module)))
        return self._filled("vae", module, found, dtype)

    def text_encoder(self, kind: Any, part: str, config: Any, dtype: torch.dtype) -> Any:
        """Return the text encoder of that name, of that class."""
        with init_empty_weights(include_buffers=False):
            module = kind(config)
        opened = OPEN_CLIP[1] if part.endswith("_2") else OPEN_CLIP[0]
        if any(key.startswith(opened) for key in self._tensors):
            found = self._converted(
                part, lambda: convert_open_clip_checkpoint(module, self._tensors, prefix=opened)
            )
        else:
            found = self._converted(part, lambda: convert_ldm_clip_checkpoint(self._tensors))
        return self._filled(part, module, _by_names_of(module, found), dtype)

    def _kind(self) -> str:
        try:
            kind = infer_diffusers_model_type(self._tensors)
        except LookupError:  # a tensor without the sides by which it tells kinds apart
            kind = "nothing"
        if _OTHER_NOISE in self._tensors:
            kind = "edm"
        if kind not in _KINDS:
            raise MisfitError(
                f"{self._path}: holds what diffusers calls {kind}; Stable Diffusion 1, 2 or XL is "
                "wanted"
            )
        return str(kind)

    def _of(self, module: Any) -> tuple[Tensors, Any]:
        return self._tensors, module.config

    def _empty(self, kind: Any, part: str) -> Any:
        config = kind.load_config(self.configs, subfolder=part, **self._source)
        with init_empty_weights(include_buffers=False):
            return kind.from_config(config)

    def _converted(self, part: str, convert: Callable[[], Tensors]) -> Tensors:
        try:
            return convert()
        # Where the config has more than the file, the converter asks for what is not there.
        except KeyError as error:
            raise self._misfit(part, f"{error} is missing") from None
        except (IndexError, AttributeError, RuntimeError) as error:
            raise self._misfit(part, reason(error)) from None

    def _filled(self, part: str, module: Any, found: Tensors, dtype: torch.dtype) -> Any:
        wanted = module.state_dict()
        for name in [*wanted, *found]:
            if name not in found:
                raise self._misfit(part, f"{name} is missing")
            if name not in wanted and not name.endswith(_NEEDLESS):
                raise self._misfit(part, f"there is no place for {name}")
            if not found[name].is_floating_point() and name in wanted:
                raise self._misfit(part, f"{name} is of {found[name].dtype}")
            if name in wanted and found[name].shape != wanted[name].shape:
                shapes = (tuple(one[name].shape) for one in (found, wanted))
                raise self._misfit(part, "{}: found {}, wanted {}".format(name, *shapes))
        # Copies: what learns must not be the file's own memory, whose pages may change with it.
        own = {
            name: found[name].to(dtype, copy=True, memory_format=torch.contiguous_format)
            for name in wanted
        }
        module.load_state_dict(own, assign=True)
        return module

    def _misfit(self, part: str, said: str) -> MisfitError:
        return MisfitError(
            f"{self._path}: its {part} is not the one that {self.configs} describes ({said}); name "
            "a folder or hub id with its configs and tokenizer in config_name_or_path"
        )


def _by_names_of(module: Any, found: Tensors) -> Tensors:
    """Return the tensors as this version of transformers calls them: with `text_model.` or not."""
    names = {name.removeprefix("text_model."): name for name in module.state_dict()}
    bare = {name.removeprefix("text_model."): one for name, one in found.items()}
    return {names.get(name, name): one for name, one in bare.items()}
