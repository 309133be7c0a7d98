"""How good pictures of a concept are, as CLIP and DINO see them; this file knows no run."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from PIL import Image

from detsd.reason import reason

BATCH = 32
Look = Callable[[torch.Tensor], torch.Tensor]  # pixels → (pictures, width)


class ScoreError(ValueError):
    """A scorer that cannot be used."""


class Seen(NamedTuple):
    """Pictures as the models see them; each row has length 1."""

    clip: torch.Tensor  # (pictures, width)
    dino: torch.Tensor  # likewise; of no width where there is no such model


class Album(NamedTuple):
    """What was drawn of one prompt, and what it should be like."""

    prompt: str  # in plain words, since CLIP does not know the concept's
    samples: Seen
    real: Seen  # pictures of the concept


class References(NamedTuple):
    """What scores are compared with."""

    fidelity: float  # of real pictures to each other
    prompt_adherence: float  # of what the initializer's words draw


class Eye:
    """A model that turns pictures into vectors; it is on the device only while it looks."""

    def __init__(self, model: Any, look: Look, processor: Any, device: torch.device):
        self._model = model
        self._look = look
        self._processor = processor
        self._device = device

    @torch.no_grad()
    def see(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return a row a picture."""
        self._model.to(self._device)
        rows = []
        for start in range(0, len(pictures), BATCH):
            batch = self._processor(pictures[start : start + BATCH], return_tensors="pt")
            rows.append(_unit(self._look(batch["pixel_values"].to(self._device))))
        self._model.to("cpu")
        return torch.cat(rows)


class Scorer:
    """A CLIP model, and DINO where one is named."""

    def __init__(self, clip: Any, tokenizer: Any, eye: Eye, dino: Eye | None):
        self._clip = clip
        self._tokenizer = tokenizer
        self._eye = eye
        self._dino = dino

    def see(self, pictures: Sequence[Image.Image]) -> Seen:
        """Return what both see."""
        pictures = list(pictures)
        blind = torch.empty(len(pictures), 0)
        return Seen(self._eye.see(pictures), self._dino.see(pictures) if self._dino else blind)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """Return a row a text."""
        longest = self._clip.config.text_config.max_position_embeddings
        ids = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return _unit(_pooled(self._clip.get_text_features(ids["input_ids"], ids["attention_mask"])))

    def adherence(self, albums: Sequence[Album]) -> float:
        """Return the mean similarity of samples to their prompts."""
        wanted = self.read([album.prompt for album in albums])
        rows = [album.samples.clip @ text for album, text in zip(albums, wanted, strict=True)]
        return float(torch.cat(rows).mean())

    def scores(self, albums: Sequence[Album], references: References) -> dict[str, float]:
        """Return every metric."""
        clip = [album.samples.clip @ album.real.clip.T for album in albums]
        fidelity, adherence = _mean(clip), self.adherence(albums)
        metrics = {
            "fidelity": fidelity,
            "prompt_adherence": adherence,
            "diversity": 1 - likeness(torch.cat([album.samples.clip for album in albums])),
            "copying": max(float(one.max()) for one in clip),
            "quality": quality(fidelity, adherence, references),
        }
        if self._dino:
            metrics["dino_fidelity"] = _mean([one.samples.dino @ one.real.dino.T for one in albums])
        return metrics


def quality(fidelity: float, adherence: float, references: References) -> float:
    """Return the harmonic mean of both, each as a share of its reference, from 0 to 1."""
    shares = [
        min(max(value / reference, 0.0), 1.0) if reference > 0 else 0.0
        for value, reference in zip((fidelity, adherence), references, strict=True)
    ]
    return 2 * math.prod(shares) / sum(shares) if sum(shares) else 0.0


def likeness(seen: torch.Tensor) -> float:
    """Return the mean similarity of any two of (pictures, width); of one to itself, 1."""
    count = len(seen)
    if count < 2:
        return 1.0
    return (float((seen @ seen.T).sum()) - count) / (count * (count - 1))


def together(groups: Sequence[Seen]) -> Seen:
    """Return several groups of pictures as one."""
    return Seen(*(torch.cat(column) for column in zip(*groups, strict=True)))


def load_scorer(
    clip: str, dino: str | None, device: torch.device, token: str | bool | None = None
) -> Scorer:
    """Load the models, from folders or the hub."""
    key = "inference.scorer_name_or_path"
    model = _load_model(transformers.CLIPModel, clip, key, token)
    tokenizer = _load(transformers.AutoTokenizer, clip, key, token)
    processor = _load(transformers.AutoImageProcessor, clip, key, token)
    eye = Eye(model, lambda pixels: _pooled(model.get_image_features(pixels)), processor, device)
    if dino is None:
        return Scorer(model, tokenizer, eye, None)
    key = "inference.dino_name_or_path"
    other = _load_model(transformers.AutoModel, dino, key, token)
    processor = _load(transformers.AutoImageProcessor, dino, key, token)
    # The class token: many a DINO comes without a pooler, and would be given a random one.
    second = Eye(other, lambda pixels: other(pixels).last_hidden_state[:, 0], processor, device)
    return Scorer(model, tokenizer, eye, second)


def _load_model(kind: Any, name: str, key: str, token: str | bool | None) -> Any:
    model, info = _load(kind, name, key, token, output_loading_info=True)
    if missing := sorted(one for one in info["missing_keys"] if not one.startswith("pooler.")):
        raise ScoreError(
            f"{key}: {name} is no {kind.__name__}: it lacks {len(missing)} weights, "
            f"{missing[0]} among them"
        )
    return model.requires_grad_(False).eval()


def _load(kind: Any, name: str, key: str, token: str | bool | None, **more: Any) -> Any:
    try:
        return kind.from_pretrained(name, token=token, **more)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ScoreError(f"{key}: {name} could not be loaded: {reason(error)}") from error


def _pooled(features: Any) -> torch.Tensor:
    # transformers returns a record of them from some version on.
    return getattr(features, "pooler_output", features)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows.float(), dim=-1).cpu()


def _mean(values: Sequence[torch.Tensor]) -> float:
    return float(torch.stack([value.mean() for value in values]).mean())
