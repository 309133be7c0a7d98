"""How long the vectors of a model's vocabulary are; of its files only the table is read."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from detsd.concepts import Concept
from detsd.config import model_folder

_TABLE = "token_embedding.weight"


class Norms:
    """The mean and median norm of a vocabulary's vectors by text encoder, and their width."""

    def __init__(self, tables: Mapping[str, torch.Tensor]):
        self.widths = {key: table.shape[1] for key, table in tables.items()}
        norms = {key: table.detach().float().norm(dim=1) for key, table in tables.items()}
        self.means = {key: each.mean().item() for key, each in norms.items()}
        self.medians = {key: each.median().item() for key, each in norms.items()}

    def ratio(self, concept: Concept) -> float | None:
        """Return the concept's mean norm as a share of the vocabulary's; None of another family.

        Of two encoders it is the mean: what training reports as `embedding_norm_ratio`.
        """
        if self.widths != {key: rows.shape[1] for key, rows in concept.vectors.items()}:
            return None
        ratios = [mean_norm(rows) / self.means[key] for key, rows in concept.vectors.items()]
        return sum(ratios) / len(ratios)


def mean_norm(rows: torch.Tensor) -> float:
    """Return the mean length of the vectors."""
    return rows.float().norm(dim=1).mean().item()


def norms_beside(model: Path, tables: Mapping[str, torch.Tensor]) -> Norms:
    """Return the norms of a model that is loaded now, by its folder or, in none, by its tables.

    A table of Stable Diffusion 1.x's has 150 MB, of which a run needs a few rows: what was read of
    the file is let go of, and what was touched of the loaded model stays in memory.
    """
    return _read(model) or Norms(tables)


@lru_cache(maxsize=8)
def norms_of(model: Path) -> Norms | None:
    """Return the norms of a model in a folder; None if there is none, or not in safetensors."""
    return _read(model)


def _read(model: Path) -> Norms | None:
    folder = model_folder(model)
    if folder is None:
        return None
    parts = {"clip_l": folder / "text_encoder", "clip_g": folder / "text_encoder_2"}
    tables = {key: _table(part) for key, part in parts.items() if part.is_dir()}
    found = {key: table for key, table in tables.items() if table is not None}
    return Norms(found) if found and len(found) == len(tables) else None


def _table(folder: Path) -> torch.Tensor | None:
    """Return the vectors by which a text encoder begins."""
    # A variant's name is longer than that of the weights in full.
    for path in sorted(folder.glob("*.safetensors"), key=lambda path: (len(path.name), path)):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118
                    if key.endswith(_TABLE):
                        return file.get_tensor(key)
        except SafetensorError:
            continue
    return None
