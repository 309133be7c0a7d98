"""How well the demo's model draws what it is asked for: python -m demo.judge

Each picture is held against its caption with one word changed at a time: the scorer has to find
the caption as it was nearest.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo.grounds import Ground
from demo.media import MEDIA
from demo.palette import COLOURS
from demo.patterns import PATTERNS
from demo.pretrain import BESIDE
from demo.scenes import SCENES
from demo.subjects import SHAPES, Shape
from demo.world import Scene, draw, scene, spelt
from detsd.console import hush_loading
from detsd.gallery import sheet
from detsd.generate import load_pipeline
from detsd.images import prepare, whole
from detsd.model import StableDiffusion
from detsd.score import Scorer, load_scorer

FIRST = 10_000_000  # scenes from here on were never trained on


def main() -> None:
    """Print the share of pictures that show what was asked for, drawn by the model and real."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=BESIDE / "model")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--sheet", type=Path, help="a file for some of the pictures")
    arguments = parser.parse_args()
    hush_loading()
    pipeline = load_pipeline(arguments.model)
    size = pipeline.model.size
    scenes = some_scenes(arguments.count)
    real = [draw(one, np.random.default_rng([place, 3]), size) for place, one in enumerate(scenes)]
    made = pipeline(
        [words(one) for one in scenes],
        seed=range(len(scenes)),
        guidance=arguments.guidance,
        steps=arguments.steps,
    )
    scorer = load_scorer(str(arguments.model / "scorer"), None, pipeline.model.device)
    seen = {"made": scorer.see(made).clip, "real": scorer.see(real).clip}
    print(f"{'':12}" + "".join(f"{name:>8}" for name in seen))
    for name, alternatives in ALTERNATIVES.items():
        right = correct(scorer, scenes, seen, alternatives)
        print(f"{name:12}" + "".join(f"{share:8.0%}" for share in right))
    print(f"{'vae psnr':12}{psnr(pipeline.model, real[:100]):8.1f}")
    if arguments.sheet:
        labels = [words(one) for one in scenes[:40]]
        sheet(made[:40], columns=8, labels=labels).save(arguments.sheet)


def some_scenes(count: int) -> list[Scene]:
    """Scenes of one plain shape each, drawn in full size."""
    found: list[Scene] = []
    number = FIRST
    while len(found) < count:
        one = replace(scene(number), size="", place="")
        number += 1
        if isinstance(one.subject, Shape):
            found.append(one)
    return found


def words(one: Scene) -> str:
    """The scene's caption with everything said and nothing besides."""
    said = f"a {one.subject.words} {one.ground.words}"
    return spelt(MEDIA[one.medium].phrases[0].format(said))


def _colours(one: Scene) -> list[Scene]:
    shape = one.subject
    assert isinstance(shape, Shape)
    return [replace(one, subject=replace(shape, colour=colour)) for colour in COLOURS]


def _shapes(one: Scene) -> list[Scene]:
    shape = one.subject
    assert isinstance(shape, Shape)
    return [replace(one, subject=replace(shape, shape=name)) for name in SHAPES]


def _grounds(one: Scene) -> list[Scene]:
    return [replace(one, ground=Ground(form, one.ground.colour)) for form in (*PATTERNS, *SCENES)]


def _media(one: Scene) -> list[Scene]:
    return [replace(one, medium=medium) for medium in MEDIA]


ALTERNATIVES = {"colour": _colours, "shape": _shapes, "background": _grounds, "medium": _media}


def correct(
    scorer: Scorer,
    scenes: Sequence[Scene],
    seen: dict[str, torch.Tensor],
    alternatives: Callable[[Scene], list[Scene]],
) -> list[float]:
    """Of each kind of pictures, the share that is nearest to its own caption."""
    hits = dict.fromkeys(seen, 0)
    for place, one in enumerate(scenes):
        others = [words(other) for other in alternatives(one)]
        read = scorer.read(others)
        for name, rows in seen.items():
            hits[name] += others[int((read @ rows[place]).argmax())] == words(one)
    return [count / len(scenes) for count in hits.values()]


def psnr(model: StableDiffusion, pictures: Sequence[Image.Image]) -> float:
    """How well the VAE gives pictures back, in decibels."""
    side = pictures[0].width
    pixels = torch.stack(
        [prepare(one, whole(one), side, "bicubic", False).pixels for one in pictures]
    )
    with model.vae_awake():
        mean, _ = model.encode_images(pixels)
        back = model.decode_latents(mean).cpu().clamp(-1, 1)
    return float(10 * torch.log10(4 / (back - pixels).square().mean()))


if __name__ == "__main__":
    main()
