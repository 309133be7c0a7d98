"""A few words for pictures, as far as the demo's world goes: python -m demo.describe FOLDER

They are what a concept may start as, where its owner has given none.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import permutations, product
from pathlib import Path

import torch
from PIL import Image

from demo.figures import FIGURES, Figure
from demo.networks import FORMS, Network
from demo.palette import COLOURS
from demo.subjects import SHAPES, Shape, Subject
from detsd.console import hush_loading
from detsd.images import FORMATS, ImageError, read_image
from detsd.score import Scorer, load_scorer

SCORER = Path(__file__).resolve().parent / "model" / "scorer"


def main() -> None:
    """Print the words that the demo's scorer finds nearest to the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    pictures = list(read_pictures(folder))
    if not pictures:
        parser.error(f"{folder} holds no picture that can be used")
    hush_loading()
    scorer = load_scorer(str(SCORER), None, torch.device("cpu"))
    print(describe(scorer, pictures))


def read_pictures(folder: Path) -> Iterator[Image.Image]:
    """The pictures there that can be read."""
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in FORMATS:
            with suppress(ImageError):  # the run itself says which, and why
                yield read_image(path)


def describe(scorer: Scorer, pictures: Sequence[Image.Image]) -> str:
    """Return the words of that thing of the world that is nearest to the pictures."""
    seen = scorer.see(pictures).clip
    words = things()
    read = scorer.read([f"a photo of a {one}" for one in words])
    return words[int((read @ seen.mean(dim=0)).argmax())]


def things() -> list[str]:
    """The words of every shape, figure and network; badges would be many thousands."""
    pairs = list(permutations(COLOURS, 2))
    found: list[Subject] = [
        *(Shape(*one) for one in product(COLOURS, SHAPES)),
        *(Figure(first, second, name) for (first, second), name in product(pairs, FIGURES)),
        *(Network(form, *pair, "white", 0) for form, pair in product(FORMS, pairs)),
    ]
    return list(dict.fromkeys(one.words for one in found))


if __name__ == "__main__":
    main()
