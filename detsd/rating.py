"""What a single image scores: how like its prompt, and how like real pictures of its concept."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from detsd.images import FORMATS, ImageError, middle, read_image
from detsd.score import Scorer


class Rater:
    """A scorer, and what it saw of the real pictures; without any there is no fidelity."""

    def __init__(self, scorer: Scorer, real: Sequence[Image.Image]):
        self._scorer = scorer
        self._real = scorer.see(real).clip if real else None

    def rate(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return the metrics of each image; the prompts are in plain words."""
        seen = self._scorer.see(images).clip
        wanted = self._scorer.read(prompts)
        columns = {"prompt_adherence": (seen * wanted).sum(dim=1)}
        if self._real is not None:
            columns["fidelity"] = (seen @ self._real.T).mean(dim=1)
        return [
            {name: round(float(column[place]), 4) for name, column in columns.items()}
            for place in range(len(images))
        ]


def read_pictures(folders: Sequence[Path], side: int) -> list[Image.Image]:
    """Return the folders' pictures, as small as the model draws."""
    pictures: list[Image.Image] = []
    for folder in folders:
        files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in FORMATS]
        if not files:
            raise ImageError(f"{folder}: no picture in it to compare with")
        pictures += map(read_image, files)
    return [one.resize((side, side), Image.Resampling.BICUBIC, box=middle(one)) for one in pictures]
