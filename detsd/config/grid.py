"""What the hyperparameters of a generation YAML may say: one point of a grid, or a sweep."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from detsd.config.finetune import Beta
from detsd.config.inference import SchedulerName, ScorerName
from detsd.config.model import NamedModel
from detsd.config.read import (
    Count,
    Extra,
    Integer,
    Listed,
    ListedOrNone,
    Number,
    Off,
    Section,
    Seed,
)

Text = Annotated[str, Field(min_length=1)]
Steps = Annotated[Integer, Field(ge=1, le=1000)]
Guidance = Annotated[Number, Field(ge=0)]
Side = Annotated[Integer, Field(ge=8)]
BLANK = "{concept}"
MOST_SEEDS = 1_000_000


def _as_seeds(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return _listed(value)
    if set(value) != {"first", "count"} or not all(type(item) is int for item in value.values()):
        raise ValueError("a list, or the numbers `first` and `count`, are wanted")
    if value["count"] > MOST_SEEDS:
        raise ValueError(f"a `count` of at most {MOST_SEEDS} is wanted")
    return tuple(range(value["first"], value["first"] + value["count"]))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


class PipelineConfig(NamedModel):
    """The model, and how its noise is removed."""

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
    compile: Annotated[Literal["off", "blocks", "full", "auto"], Off] = "off"
    """Compile the UNet's blocks, or all of it; `auto`: blocks, on a GPU, for many images."""
    disable_progress_bar: bool = False
    """No bar for each image."""

    @property
    def forward_process(self) -> dict[str, Any]:
        """What the config says of the forward process, over the model's own."""
        keys = ("beta_start", "beta_end", "beta_schedule")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}


class CallConfig(Section):
    """What one point of a grid draws, by the names of diffusers' pipeline."""

    prompt: Text
    """What to draw; it may name the concepts."""
    negative_prompt: str = ""
    """What to lead away from."""
    num_inference_steps: Steps = 50
    """Denoising steps an image."""
    guidance_scale: Guidance = 7.5
    """How strongly the prompt is followed; 1 and less is without guidance."""
    num_images_per_prompt: Count = 1
    """This many times the images."""
    width: Side | None = None
    """In pixels; the model's own when absent."""
    height: Side | None = None
    """As above."""


class SweepConfig(Section):
    """Axes, all combined: every value of each with every value of the others."""

    prompt: Annotated[tuple[Text, ...], Listed, Field(min_length=1)]
    """What to draw; `{concept}` in it is filled with each of `concept`."""
    negative_prompt: Annotated[tuple[str, ...], Listed, Field(min_length=1)] = ("",)
    """What to lead away from."""
    concept: Annotated[tuple[Text, ...], ListedOrNone] = ()
    """Words for the `{concept}` of prompts: concepts, or plain words to compare them with."""
    checkpoint: Annotated[tuple[Text, ...], ListedOrNone] = ()
    """Checkpoints (UUIDs, folders, files) to compare: each one's concepts, under the same names,
    its adapter, or its whole model."""
    scheduler: Annotated[tuple[SchedulerName, ...], ListedOrNone] = ()
    """How the noise is removed; `pipeline.scheduler_name` when absent."""
    steps: Annotated[tuple[Steps, ...], Listed, Field(min_length=1)] = (50,)
    """Denoising steps an image."""
    guidance_scale: Annotated[tuple[Guidance, ...], Listed, Field(min_length=1)] = (7.5,)
    """How strongly the prompt is followed; 1 and less is without guidance."""
    adapter: Annotated[tuple[Text, ...], ListedOrNone] = ()
    """Adapters (UUIDs, folders, files) to compare, each with the concepts of its checkpoint."""
    adapter_scale: Annotated[tuple[Number, ...], Listed, Field(min_length=1)] = (0.0, 1.0)
    """How much the adapter counts; 0 is the same image without it."""
    seed: Annotated[tuple[Seed, ...], BeforeValidator(_as_seeds), Field(min_length=1)] = (
        2147483647,
    )
    """One image a seed: a list, or `first` and `count`."""
    width: Side | None = None
    """In pixels; the model's own when absent."""
    height: Side | None = None
    """As above."""

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """A blank that nothing fills; words that no prompt has a blank for; a value twice."""
        prompts = _listed(raw.get("prompt"))
        blanks = [prompt for prompt in prompts if BLANK in str(prompt)]
        if blanks and not raw.get("concept"):
            yield "concept", f"words for the {BLANK} of {blanks[0]!r} are wanted"
        if raw.get("concept") and not blanks:
            yield "concept", f"no prompt has a {BLANK} for them"
        if raw.get("adapter_scale") is not None and not raw.get("adapter"):
            yield "adapter_scale", "an adapter is wanted with it"
        for axis in cls.model_fields:
            values = [] if isinstance(raw.get(axis), Mapping) else _listed(raw.get(axis))
            for value, count in Counter(map(repr, values)).items():
                if count > 1:
                    yield axis, f"{value} is in it twice"
            if axis != "prompt" and any(BLANK in str(value) for value in values):
                yield axis, f"{BLANK} is filled in prompts alone"


class GridConfig(Section):
    """The hyperparameters of a generation trial."""

    call_kwargs: CallConfig | None = None
    """One point, as Determined's grid searcher makes them: batch size × batches × slots images."""
    sweep: SweepConfig | None = None
    """All points in one trial."""
    pipeline: PipelineConfig = PipelineConfig()
    """The model."""
    batch_size: Count | Literal["auto"] | None = None
    """Images at once; as many as fit when absent from a sweep, 1 when absent from a point."""
    num_batches: Count = 1
    """Calls a slot, of a point."""
    save_freq: Count | None = None
    """Batches a process between checkpoints; five minutes when absent."""
    main_process_generator_seed: Seed = 2147483647
    """Image j of a point has this seed + j."""
    uuids: Annotated[tuple[str, ...], ListedOrNone] = ()
    """Determined checkpoints: their concepts, their adapters, or a whole model instead of the
    pipeline's."""
    local_checkpoint_paths: Annotated[tuple[Path, ...], ListedOrNone] = ()
    """The same from checkpoint folders, or files."""
    scorer_name_or_path: ScorerName | None = None
    """A CLIP model, folder or hub id, that scores every image."""
    scorer_img_dirs: Annotated[tuple[Path, ...], ListedOrNone] = ()
    """Real pictures of the concept, for its fidelity."""

    @property
    def at_once(self) -> int | None:
        """Images at once; None is for as many as fit."""
        if self.batch_size is None and self.sweep is None:
            return 1
        return None if self.batch_size in (None, "auto") else int(self.batch_size)

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Neither a point nor a sweep, or both; a checkpoint that is not there."""
        point, sweep = raw.get("call_kwargs") is not None, raw.get("sweep") is not None
        if point == sweep:
            found = "both are there" if point else "neither is there"
            yield "sweep", f"either call_kwargs or sweep is wanted, {found}"
        if point and raw.get("batch_size") == "auto":
            yield "batch_size", "a number is wanted with call_kwargs: it says how many images"
        if sweep and raw.get("num_batches") is not None:
            yield "num_batches", "is for call_kwargs; a sweep has its seeds"
        if raw.get("scorer_img_dirs") and not raw.get("scorer_name_or_path"):
            yield "scorer_img_dirs", "scorer_name_or_path is wanted with it"
        for key, is_there in (
            ("local_checkpoint_paths", Path.exists),
            ("scorer_img_dirs", Path.is_dir),
        ):
            for path in _listed(raw.get(key)):
                if not is_there(Path(str(path))):
                    kind = "folder" if is_there is Path.is_dir else "file or folder"
                    yield key, f"no such {kind}: {path}"
