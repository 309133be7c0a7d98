"""The `method` and `prior` sections: what of the model is learnt, and what it is not to forget."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from detsd.config.concepts import a_folder
from detsd.config.inference import SchedulerName
from detsd.config.read import Count, Integer, Listed, Number, Section, Seed

Rate = Annotated[Number, Field(ge=0, le=1e6)]
KINDS_OF_MODULE = (
    "attention",
    "self_attention",
    "cross_attention",
    "feed_forward",
    "projections",
    "convolutions",
)
BLOCKS = ("down_blocks", "mid_block", "up_blocks")


def _a_target(target: str) -> str:
    block, _, kind = target.rpartition(".")
    if kind not in KINDS_OF_MODULE or (block and block.split(".")[0] not in BLOCKS):
        kinds, blocks = ", ".join(KINDS_OF_MODULE), ", ".join(BLOCKS)
        raise ValueError(
            f"one of {kinds} is wanted, of the whole UNet or, as in up_blocks.1.attention, of one "
            f"of its blocks ({blocks})"
        )
    return target


def _of_a_class(prompts: tuple[str, ...]) -> tuple[str, ...]:
    if not any(prompt.strip() for prompt in prompts):
        raise ValueError('a phrase for the class is wanted; "" may be beside it in a list')
    return prompts


class TextualInversionConfig(Section):
    """The vectors of the concepts, and nothing else."""

    kind: Literal["textual_inversion"] = "textual_inversion"
    """What is learnt."""

    learns_weights: ClassVar = False  # of the model's own
    learns_vectors: ClassVar = True  # the concepts are new words, and not a rare one of the model's
    vectors_learning_rate: ClassVar = None  # but the optimizer's


class LoraConfig(Section):
    """Low-rank changes to some of the UNet's layers, in a file of megabytes."""

    kind: Literal["lora"]
    """What is learnt."""
    rank: Count = 4
    """Of each change: more of it holds more, and forgets more."""
    alpha: Annotated[Number, Field(gt=0)] | None = None
    """A change counts alpha / rank times; as large as the rank when absent."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of a layer's input that its change does not see at a step."""
    dora: bool = False
    """Learn the size of each row of weights apart from its direction (DoRA)."""
    targets: Annotated[
        tuple[Annotated[str, AfterValidator(_a_target)], ...], Listed, Field(min_length=1)
    ] = ("attention",)
    """Which layers: `attention`, `feed_forward`, `convolutions`, …, or those of a block alone."""
    text_encoder_learning_rate: Rate | None = None
    """Adapt the text encoders' attention (and feed-forward) too, at this rate; not when absent."""
    vectors_learning_rate: Rate | None = None
    """Learn the concepts as new words, too, at this rate (pivotal tuning); not when absent."""

    learns_weights: ClassVar = False

    @property
    def learns_vectors(self) -> bool:
        """Whether the concepts are new words with vectors, and not a rare word of the model's."""
        return self.vectors_learning_rate is not None


class FullConfig(Section):
    """All the UNet's weights: with a rare word and `prior` this is DreamBooth."""

    kind: Literal["full"]
    """What is learnt."""
    text_encoder_learning_rate: Rate | None = None
    """Learn the text encoders' weights, too, at this rate; not when absent."""
    vectors_learning_rate: Rate | None = None
    """Learn the concepts as new words, too, at this rate (pivotal tuning); not when absent."""
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Keep a running mean of the weights, which is what is sampled and exported."""

    learns_weights: ClassVar = True

    @property
    def learns_vectors(self) -> bool:
        """Whether the concepts are new words with vectors, and not a rare word of the model's."""
        return self.vectors_learning_rate is not None


MethodConfig = Annotated[
    TextualInversionConfig | LoraConfig | FullConfig, Field(discriminator="kind")
]


class PriorConfig(Section):
    """What the model is to go on drawing as before: the class that the concept is one of."""

    kind: Literal["pictures", "distill"] = "pictures"
    """`pictures` of the class, which the model makes first; or, with `distill`, what the unchanged
    model predicts for the class of the concept's own noisy pictures: a second look, no pictures."""
    class_prompt: Annotated[tuple[str, ...], Listed, AfterValidator(_of_a_class)]
    """What a picture of the class is called: `a photo of a man`. Of several, for the scenes and
    media that it is drawn in, each has its share of the pictures; so has `""` among them, which
    holds what is drawn without a prompt, the point that guidance leads away from."""
    weight: Annotated[Number, Field(ge=0)] = 1.0
    """Loss = mean over the concept's pictures + this × mean over the class's; 0 is no prior."""
    num_class_images: Count = 200
    """Pictures of the class, each made once and kept."""
    class_dir: Annotated[Path, AfterValidator(a_folder)] | None = None
    """Your own pictures of the class, instead of made ones."""
    num_inference_steps: Annotated[Integer, Field(ge=1, le=1000)] = 50
    """Denoising steps a class picture."""
    guidance_scale: Annotated[Number, Field(ge=0)] = 5.0
    """How strongly a class picture follows its prompt."""
    scheduler_name: SchedulerName = "pndm"
    """How the noise of a class picture is removed."""
    generator_seed: Seed = 2147483647
    """Seed of the first class picture; the next ones count up from it."""
    cache_dir: Path | None = None
    """Where made pictures are kept for other runs; in the home folder's .cache when absent."""

    def prompt_of(self, number: int) -> str:
        """Return what the class picture of that number is called."""
        return self.class_prompt[number % len(self.class_prompt)]

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Folders without a name; pictures that a kind has no use for."""
        for key in ("class_dir", "cache_dir"):
            if raw.get(key) == "":
                yield key, "a folder is wanted, or null"
        prompts = raw.get("class_prompt")
        if raw.get("class_dir") is not None and isinstance(prompts, list) and len(prompts) > 1:
            yield (
                "class_prompt",
                f"one for the pictures of class_dir is wanted, found {len(prompts)}",
            )
        if raw.get("kind") == "distill" and raw.get("class_dir") is not None:
            yield "class_dir", "distill takes no pictures of the class; leave out one of the two"
        count = raw.get("num_class_images", 200)
        made = raw.get("kind") != "distill" and raw.get("class_dir") is None
        if made and isinstance(prompts, list) and isinstance(count, int) and count < len(prompts):
            yield "num_class_images", f"one for each of {len(prompts)} prompts is wanted"
