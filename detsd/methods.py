"""What is trained: the parts of the model that learn, and the loss that they learn by."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from detsd.batches import Batch
from detsd.checkpoints import Export, find_model
from detsd.concepts import Concept
from detsd.config import ConfigError, FinetuneConfig, FullConfig, LoraConfig
from detsd.lora import LearntAdapter
from detsd.loss import denoising_errors
from detsd.model import StableDiffusion
from detsd.norms import Norms, norms_beside
from detsd.part import Distance, Part
from detsd.sending import send
from detsd.text import Conditioning, KeptPrompts
from detsd.vectors import Vectors
from detsd.weights import LearntWeights

log = logging.getLogger(__name__)

# What a checkpoint may lend, and what to do with that where nothing here learns it.
LENT = {
    "concepts": "words (learnt by textual_inversion, or with method.vectors_learning_rate)",
    "adapter": "an adapter (learnt by method.kind: lora)",
    "model": "a whole model (name the checkpoint in model.pretrained_model_name_or_path)",
}


class Method:
    """What the loop knows of the thing it trains: its parts as one."""

    def __init__(self, model: StableDiffusion, parts: Sequence[Part], config: FinetuneConfig):
        prior = config.prior if config.prior and config.prior.weight else None
        self._parts = tuple(parts)
        self._snr_gamma = config.training.snr_gamma
        self._distills = prior is not None and prior.kind == "distill"
        self._has_prior = prior is not None
        self._kept = KeptPrompts(model.text)
        self._reads_prompts = any(part.reads_prompts for part in parts)
        own = ("instance_loss", "prior_loss") if self._has_prior else ("noise_pred_loss",)
        self.terms = (*own, *(term for part in parts for term in part.terms))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups for the optimizer, their parameters with names."""
        return [group for part in self._parts for group in part.parameter_groups()]

    def losses(self, model: StableDiffusion, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the named terms: this batch's shares of the effective batch's means."""
        with ExitStack() as stack:
            for part in self._parts:
                stack.enter_context(part.learning(batch.slot))
            conditioning = self._encode(model, batch.captions)
            errors = denoising_errors(
                lambda noisy, steps: model.predict(noisy, steps, conditioning, batch.origins),
                batch.latents,
                batch.noise,
                batch.timesteps,
                model.schedule,
                batch.weights,
                self._snr_gamma,
                lambda noisy, wanted: self._teach(model, batch, noisy, wanted),
            )
            terms = {"noise_pred_loss": errors.sum()}
            if self._has_prior:
                of_class = batch.of_class
                terms = {
                    "instance_loss": (errors * ~of_class).sum(),
                    "prior_loss": (errors * of_class).sum(),
                }
            for part in self._parts:
                terms |= part.penalties(model, batch, conditioning)
        return terms

    def after_step(self, step: int) -> None:
        """Mend what a step may have broken."""
        for part in self._parts:
            part.after_step(step)

    def metrics(self) -> dict[str, float]:
        """Return what is worth watching besides the loss."""
        return {name: value for part in self._parts for name, value in part.metrics().items()}

    def moved(self) -> list[Distance]:
        """Return how far each part has come from its start."""
        return [part.moved() for part in self._parts]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what is learnt, by name."""
        return {name: value for part in self._parts for name, value in part.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Take what is learnt from `state`; return the names that it lacks."""
        return [name for part in self._parts for name in part.load_state_dict(state)]

    def start_from(self, export: Export) -> None:
        """Begin as another trial's export has it, or say what of it has no place here."""
        taken = {field for part in self._parts for field in part.start_from(export)}
        left = [LENT[field] for field in LENT if getattr(export, field) and field not in taken]
        if left and not taken:
            raise ConfigError([f"method: the checkpoint holds {', '.join(left)}: no start for it"])
        if left:
            log.warning("of the checkpoint this is left out: %s", ", ".join(left))

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write what generation and other tools read."""
        for part in self._parts:
            part.export(folder, about)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Make the model as it is drawn with and exported, for as long as the context lasts."""
        with ExitStack() as stack:
            for part in self._parts:
                stack.enter_context(part.shown())
            yield

    def _encode(self, model: StableDiffusion, captions: Sequence[str]) -> Conditioning:
        encode = model.encode_prompts if self._reads_prompts else self._kept.encode
        return model.emptied(captions, encode(captions))

    @torch.no_grad()
    def _teach(
        self, model: StableDiffusion, batch: Batch, noisy: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Put what the model predicted for the class, before anything was learnt, in its place."""
        if not self._distills or not batch.class_rows:
            return wanted
        rows = send(batch.class_rows, wanted.device)
        captions = [batch.captions[row] for row in batch.class_rows]
        with ExitStack() as stack:
            for part in self._parts:
                stack.enter_context(part.unlearnt())
            conditioning = model.emptied(captions, self._kept.encode(captions))
            before = model.predict(
                noisy[rows], batch.timesteps[rows], conditioning, batch.origins[rows]
            )
        return wanted.index_copy(0, rows, before.float())


def attach(
    config: FinetuneConfig, concepts: Sequence[Concept], model: StableDiffusion, *, half: bool
) -> Method:
    """Return the method that the config asks for, attached to the model, which computes in bf16
    where that is `half`."""
    method, training, prior = config.method, config.training, config.prior
    parts: list[Part] = []
    if method.learns_vectors:
        name, tables = config.model.pretrained_model_name_or_path, model.text.tables()
        # Which of its files a variant is in, others decide.
        is_plain = config.model.variant is None
        norms = norms_beside(Path(find_model(name)), tables) if is_plain else Norms(tables)
        parts.append(Vectors(training, concepts, model, norms, method.vectors_learning_rate))
    if isinstance(method, LoraConfig):
        parts.append(LearntAdapter(method, training.train_seed, model, half=half))
    if isinstance(method, FullConfig):
        distills = bool(prior and prior.weight and prior.kind == "distill")
        parts.append(LearntWeights(method, model, half=half, keeps_first=distills))
    return Method(model, parts, config)
