"""What the hyperparameters of a generation YAML may say: one point of a grid."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from detsd.config.finetune import Beta, ModelConfig
from detsd.config.inference import SCHEDULER_DEFAULTS, SchedulerName
from detsd.config.read import Count, Extra, Listed, Section, Seed


class PipelineConfig(Section):
    """The model, and how its noise is removed."""

    pretrained_model_name_or_path: str = "CompVis/stable-diffusion-v1-4"
    """A hub id, or a folder in diffusers' layout."""
    learned_embeddings_filename: str = "learned_embeddings_dict.pt"
    """The file with the concepts in a checkpoint of the earlier example."""
    scheduler_name: SchedulerName = "pndm"
    """How the noise is removed."""
    other_scheduler_kwargs: Extra = Field(default_factory=dict)
    """More arguments of that scheduler, over its defaults."""
    beta_start: Beta | None = None
    """Forward process: the model's own scheduler config when absent."""
    beta_end: Beta | None = None
    """As above."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] | None = None
    """As above."""
    use_fp16: bool = True
    """Half precision on a GPU."""
    disable_progress_bar: bool = False
    """No bar for each image."""

    @property
    def model(self) -> ModelConfig:
        """The model, as fine-tuning names it."""
        return ModelConfig(pretrained_model_name_or_path=self.pretrained_model_name_or_path)

    @property
    def forward_process(self) -> dict[str, Any]:
        """What the config says of the forward process, over the model's own."""
        keys = ("beta_start", "beta_end", "beta_schedule")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}

    @property
    def scheduler_kwargs(self) -> dict[str, Any]:
        """The scheduler's arguments: its defaults here, with what the config adds over them."""
        return {**SCHEDULER_DEFAULTS[self.scheduler_name], **self.other_scheduler_kwargs}


class GridConfig(Section):
    """The hyperparameters of a generation trial: batch size × batches × slots images."""

    call_kwargs: dict[str, Any]
    """What diffusers' pipeline is called with: `prompt`, `guidance_scale`, …"""
    pipeline: PipelineConfig = PipelineConfig()
    """The model."""
    batch_size: Count = 1
    """Images a call."""
    num_batches: Count = 1
    """Calls a slot."""
    save_freq: Count = 1
    """Accepted for the earlier example's sake: every image is kept at once."""
    main_process_generator_seed: Seed = 2147483647
    """Image j has this seed + j."""
    uuids: Annotated[tuple[str, ...], Listed] = ()
    """Determined checkpoints with concepts."""
    local_checkpoint_paths: Annotated[tuple[Path, ...], Listed] = ()
    """Checkpoint folders, or files, with concepts."""

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """A call without a prompt; a checkpoint that is not there."""
        given = raw.get("call_kwargs")
        if isinstance(given, Mapping) and not isinstance(given.get("prompt"), str):
            yield "call_kwargs.prompt", f"a prompt is wanted, found {given.get('prompt')!r}"
        paths = raw.get("local_checkpoint_paths") or ()
        for path in [paths] if isinstance(paths, str) else paths:
            if not Path(str(path)).exists():
                yield "local_checkpoint_paths", f"no such file or folder: {path}"
