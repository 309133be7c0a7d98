"""What the hyperparameters of a fine-tuning YAML may say."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from detsd.config.agreement import mapping, of_method, of_prior, of_recording, texts
from detsd.config.concepts import ConceptsConfig
from detsd.config.inference import InferenceConfig
from detsd.config.method import MethodConfig, PriorConfig, TextualInversionConfig
from detsd.config.model import ModelConfig
from detsd.config.read import Count, Extra, Integer, Number, Off, Section, Seed
from detsd.words import named, reworded

OPTIMIZER_ARGUMENTS = {
    "adam": {"betas", "eps", "weight_decay", "amsgrad", "foreach", "fused"},
    "adamw": {"betas", "eps", "weight_decay", "amsgrad", "foreach", "fused"},
    "sgd": {"momentum", "dampening", "weight_decay", "nesterov", "foreach", "fused"},
    "adamw8bit": {"betas", "eps", "weight_decay"},
}
METRICS = (
    "loss",
    "quality",
    "fidelity",
    "prompt_adherence",
    "diversity",
    "copying",
    "dino_fidelity",
    "drift",
)
SMALLER_IS_BETTER = ("loss", "copying", "drift")
Positive = Annotated[Number, Field(gt=0)]
Beta = Annotated[Number, Field(gt=0, lt=1)]
NotNegative = Annotated[Number, Field(ge=0)]


class EarlyStopConfig(Section):
    """When a run ends before its last step: the metric has long been no better."""

    metric: Literal[METRICS]  # type: ignore[valid-type]
    """The validation metric to watch; all but `loss` need `inference.scorer_name_or_path`."""
    patience: Count
    """Checkpoints without a better value after which the run ends."""

    @property
    def smaller_is_better(self) -> bool:
        """Whether less of the metric is better."""
        return self.metric in SMALLER_IS_BETTER


class TrainingConfig(Section):
    """How the concept is learnt."""

    num_sgd_steps: Count = 100
    """Optimizer steps in all: an absolute target, so a resumed run stops there too."""
    train_batch_size: Count = 1
    """Samples a slot and micro-step; with the next and the slots it makes the effective batch."""
    gradient_accumulation_steps: Count = 4
    """Effective batch = train_batch_size × this × resources.slots_per_trial."""
    micro_batch_size: Count | None = None
    """Samples at once on a device; as many as fit when absent. Memory changes with it, and results
    only where `method.dropout` has another draw for each piece."""
    optimizer_name: Literal["adam", "adamw", "sgd", "adamw8bit"] = "adam"
    """Which optimizer steps what is learnt; `adamw8bit` needs bitsandbytes."""
    learning_rate: Annotated[Number, Field(ge=0, le=1e6)] = 5e-4
    """Before `scale_lr` multiplies it."""
    other_optimizer_kwargs: Extra = Field(default_factory=dict)
    """More arguments of the optimizer: `betas`, `weight_decay`, …"""
    scale_lr: bool = True
    """Multiply the learning rate by the effective batch."""
    lr_scheduler: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate goes on after the warm-up: level, or down to nothing at the end."""
    warmup_steps: Annotated[Integer, Field(ge=0)] = 0
    """Steps over which the learning rate rises from nothing."""
    max_grad_norm: Positive | None = None
    """Longer gradients are shortened to this norm."""
    snr_gamma: Positive | None = None
    """Min-SNR weighting: 5.0 keeps the easy, nearly clean timesteps from leading."""
    embedding_norm: Literal["free", "vocabulary"] = "free"
    """`vocabulary`: after a step each vector is brought to the vocabulary's median norm."""
    norm_reg_weight: NotNegative | None = None
    """× Σ (mean vocabulary norm − vector norm)², added to the loss."""
    hidden_reg_weight: NotNegative | None = None
    """× mean squared distance of the text encoder's states from the initializer's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the frozen weights; `auto` is bf16 on a GPU that has it. What is learnt is fp32."""
    compile: Annotated[Literal["off", "blocks", "full", "graph", "auto"], Off] = "off"
    """Compile the model's blocks, or each module whole; `auto`: blocks, on a GPU, in long runs.
    `graph`: only record the UNet's kernels, on a GPU and for textual inversion."""
    gradient_checkpointing: bool = False
    """Trade a third more work for much less memory."""
    checkpoint_freq: Count = 50
    """Steps between checkpoints."""
    metric_report_freq: Count = 50
    """Steps between reports of the training metrics."""
    early_stop: EarlyStopConfig | None = None
    """End when a validation metric is no better for some checkpoints; the best is exported."""
    beta_start: Beta | None = None
    """Forward process: the first beta; the model's own scheduler config when absent."""
    beta_end: Beta | None = None
    """Forward process: the last beta; as above."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] | None = None
    """Forward process: the betas between them; as above."""
    num_train_timesteps: Count | None = None
    """Forward process: its number of steps; as above."""
    train_seed: Seed = 2147483647
    """Everything random in training follows from it and the step."""

    @property
    def forward_process(self) -> dict[str, Any]:
        """What the config says of the forward process, over the model's own."""
        keys = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Arguments that the chosen optimizer does not have."""
        known = OPTIMIZER_ARGUMENTS.get(str(raw.get("optimizer_name", "adam")))
        given = raw.get("other_optimizer_kwargs")
        if known and isinstance(given, Mapping):
            for key in sorted(str(key) for key in set(given) - known):
                yield f"other_optimizer_kwargs.{key}", f"unknown; known: {', '.join(sorted(known))}"


class FinetuneConfig(Section):
    """The hyperparameters of a fine-tuning run."""

    model: ModelConfig = ModelConfig()
    """Which Stable Diffusion is taught."""
    concepts: ConceptsConfig
    """What is learnt, from which pictures."""
    method: MethodConfig = TextualInversionConfig()
    """What of the model learns it."""
    prior: PriorConfig | None = None
    """What it is not to forget meanwhile."""
    training: TrainingConfig = TrainingConfig()
    """How it is learnt."""
    inference: InferenceConfig = InferenceConfig()
    """Which samples show it."""

    @property
    def changes_model(self) -> bool:
        """Whether prompts without a concept may come out in another way than before."""
        return self.method.kind != "textual_inversion"

    @property
    def plain_words(self) -> dict[str, str]:
        """What stands for each concept where a prompt is to do without it."""
        return {word.name: word.initializer for word in self.concepts.words}

    @property
    def sample_prompts(self) -> tuple[str, ...]:
        """The prompts to draw; of a changed model each that names a concept without it, too."""
        prompts = self.inference.prompts
        if not self.changes_model:
            return prompts
        plain = (reworded(prompt, self.plain_words) for prompt in prompts)
        return tuple(dict.fromkeys([*prompts, *filter(None, plain)]))

    @property
    def measured(self) -> tuple[str, ...]:
        """The validation metrics that a run reports."""
        scored = METRICS[1:6] if self.inference.scorer_name_or_path else ()
        dino = METRICS[6:7] if self.inference.dino_name_or_path else ()
        drift = METRICS[7:] if scored and self.changes_model else ()
        return ("loss", *scored, *dino, *drift, "steps")

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What the method has no use for or does without; what has to be measured and is not."""
        yield from of_method(raw)
        yield from of_prior(raw)
        yield from of_recording(raw)
        training, inference = (mapping(raw.get(key)) for key in ("training", "inference"))
        scorer, dino = (inference.get(f"{kind}_name_or_path") for kind in ("scorer", "dino"))
        metric = mapping(training.get("early_stop")).get("metric", "loss")
        if metric in METRICS[1:] and not scorer:
            yield "training.early_stop.metric", f"{metric} needs inference.scorer_name_or_path"
        if metric == "drift":
            yield "training.early_stop.metric", "drift is least where nothing was learnt"
        if metric == "dino_fidelity" and not dino:
            yield "training.early_stop.metric", f"{metric} needs inference.dino_name_or_path"
        if dino and not scorer:
            yield "inference.dino_name_or_path", "needs inference.scorer_name_or_path beside it"
        if scorer and not _names_a_concept(raw, inference):
            yield "inference.scorer_name_or_path", "needs an inference prompt that names a concept"


def _names_a_concept(raw: Mapping[str, Any], inference: Mapping[str, Any]) -> bool:
    prompts = texts(inference.get("inference_prompts"))
    words = texts(mapping(raw.get("concepts")).get("concept_strs"))
    drawn = inference.get("generate_training_images", True)
    return bool(drawn) and any(named(prompt, words) for prompt in prompts)
