"""The `inference` section: the pictures that a run draws to show what it has learnt so far."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from detsd.config.hub import folder_or_hub_id
from detsd.config.read import Count, Extra, Integer, Listed, Number, Section, Seed
from detsd.schedulers import SCHEDULERS, known_scheduler

SCHEDULER_DEFAULTS = {name: dict(kind.arguments) for name, kind in SCHEDULERS.items()}
ScorerName = Annotated[str, Field(min_length=1), AfterValidator(folder_or_hub_id)]
SchedulerName = Annotated[str, AfterValidator(known_scheduler)]

NAME, STEPS = "inference_scheduler_name", "num_inference_steps"
# What `auto` is. Of the multistep solvers it comes nearest to what many steps draw, and at 20 steps
# nearer than the default does at 50 (benchmarks/README.md).
AUTO, AUTO_STEPS = "dpm++-2m-karras", 20


class InferenceConfig(Section):
    """Sample pictures: which prompts, how many, how often, and how they are drawn."""

    generate_training_images: bool = True
    """Draw samples before the first step and at every checkpoint."""
    inference_prompts: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Listed] | None = (
        None
    )
    """What to draw; a prompt without a concept is allowed, to compare with and without."""
    num_pipeline_calls: Count = 1
    """Columns of the sample sheet; its rows are the trial's slots."""
    inference_batch_size: Count = 1
    """Pictures a call, so a row holds calls × batch size of them."""
    inference_scheduler_name: SchedulerName = "pndm"
    """How the noise is removed; `auto` is a solver that needs few steps, and so many of them."""
    other_inference_scheduler_kwargs: Extra = Field(default_factory=dict)
    """More arguments of that scheduler, over its defaults."""
    num_inference_steps: Annotated[Integer, Field(ge=1, le=1000)] = 50
    """Denoising steps a picture; 20 when absent with `auto`."""
    guidance_scale: Annotated[Number, Field(ge=0)] = 7.5
    """How strongly the prompt is followed; 1 and less is without guidance."""
    main_process_generator_seed: Seed = 2147483647
    """Seed of the first picture; the next ones count up from it."""
    sample_freq: Count | None = None
    """Steps between samples, when more or less often than checkpoints."""

    scorer_name_or_path: ScorerName | None = None
    """A CLIP model, folder or hub id: at each checkpoint it scores the samples."""
    dino_name_or_path: ScorerName | None = None
    """A DINO model besides, for `dino_fidelity`: it looks more at the thing than at its kind."""

    @model_validator(mode="before")
    @classmethod
    def _settle_what_is_not_said(cls, values: Any) -> Any:
        # Before there is a record, so that whoever asks for the scheduler hears which it really is.
        if not isinstance(values, Mapping):
            return values
        said = dict(values)
        if said.get(STEPS, 0) is None:
            del said[STEPS]
        if said.get(NAME) == "auto":
            said = {STEPS: AUTO_STEPS, **said, NAME: AUTO}
        return said

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts to draw; none when sampling is switched off."""
        return (self.inference_prompts or ()) if self.generate_training_images else ()

    @property
    def scheduler_kwargs(self) -> dict[str, Any]:
        """The scheduler's arguments: its defaults here, with what the config adds over them."""
        defaults = SCHEDULER_DEFAULTS[self.inference_scheduler_name]
        return {**defaults, **self.other_inference_scheduler_kwargs}
