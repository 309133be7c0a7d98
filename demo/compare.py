"""What a run has learnt, in pictures and numbers: python -m demo.compare RUN_FOLDER"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from PIL import Image

from detsd import gallery, score, words
from detsd.checkpoints import read_export
from detsd.config import FinetuneConfig, read
from detsd.console import hush_loading
from detsd.critic import drift, pictures_of
from detsd.data import read_examples
from detsd.generate import Pipeline, load_pipeline

SEEDS = 6  # images a prompt
SHOWN = 3  # of them on the sheet, before and after


class Row(NamedTuple):
    """What one source of pictures scores."""

    source: str
    metrics: dict[str, float]


def main() -> None:
    """Compare what a run has learnt with plain words, and with real pictures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run", type=Path, help="the folder of a finished run of one concept")
    run: Path = parser.parse_args().run
    hush_loading()
    experiment = yaml.safe_load((run / "config.yaml").read_text())
    config = read(FinetuneConfig, experiment["hyperparameters"])
    checkpoint = sorted((run / "checkpoints").glob("step-*"))[-1]
    untaught, taught = open_pipelines(config, checkpoint)
    plain = [words.reworded(prompt, config.plain_words) for prompt in config.inference.prompts]
    examples = read_examples(config.concepts)
    (word,) = config.concepts.words
    real = pictures_of(word.name, config.concepts, examples, taught.model.size)
    print(f"drawing {2 * SEEDS * len(plain)} images: {len(plain)} prompts, before and after")
    before = draw(untaught, plain, config)
    after = draw(taught, config.inference.prompts, config)
    sheet = run / "before-and-after.png"
    show(real, before, after, config.inference.prompts).save(sheet)
    print_table(rate(config, plain, before, after, real))
    if config.changes_model:
        print_drift(config, before, draw(taught, plain, config))
    print(f"\nthe pictures     {sheet}")
    print(f"what was learnt  {checkpoint / 'export'}")
    print(f"the whole course tensorboard --logdir {run / 'tensorboard'}")


def open_pipelines(config: FinetuneConfig, checkpoint: Path) -> tuple[Pipeline, Pipeline]:
    """The model as it was, and as the checkpoint has made it."""
    base, export = config.model.pretrained_model_name_or_path, read_export(checkpoint)
    adapters = [checkpoint] if export.adapter else []
    taught = load_pipeline(export.model or base, concepts=export.concepts, adapters=adapters)
    return load_pipeline(base), taught


def draw(
    pipeline: Pipeline, prompts: Sequence[str], config: FinetuneConfig
) -> list[list[Image.Image]]:
    """Some images of each prompt, with the same seeds each time."""
    settings = config.inference
    images = pipeline(
        prompts,
        seed=settings.main_process_generator_seed,
        count=SEEDS,
        steps=settings.num_inference_steps,
        guidance=settings.guidance_scale,
        scheduler=settings.inference_scheduler_name,
        scheduler_kwargs=settings.other_inference_scheduler_kwargs,
    )
    return [images[start : start + SEEDS] for start in range(0, len(images), SEEDS)]


def rate(
    config: FinetuneConfig,
    plain: Sequence[str],
    before: Sequence[Sequence[Image.Image]],
    after: Sequence[Sequence[Image.Image]],
    real: Sequence[Image.Image],
) -> list[Row]:
    """The scores of the words, of the concept, and of real pictures."""
    name = config.inference.scorer_name_or_path
    if name is None:
        raise SystemExit("the run's YAML names no inference.scorer_name_or_path to score with")
    scorer = score.load_scorer(name, None, torch.device("cpu"))
    seen = scorer.see(real)

    def albums(drawn: Sequence[Sequence[Image.Image]]) -> list[score.Album]:
        pairs = zip(plain, drawn, strict=True)
        return [score.Album(prompt, scorer.see(one), seen) for prompt, one in pairs]

    ceiling, old = score.likeness(seen.clip), albums(before)
    references = score.References(ceiling, scorer.adherence(old))
    (word,) = config.concepts.words
    return [
        Row(f"“{word.initializer}”", scorer.scores(old, references)),
        Row(word.name, scorer.scores(albums(after), references)),
        Row("real pictures", {"fidelity": ceiling, "diversity": 1 - ceiling}),
    ]


def print_table(rows: Sequence[Row]) -> None:
    """The scores, and what they come to."""
    floor, learnt, ceiling = (row.metrics for row in rows)
    width = min(44, max(len(row.source) for row in rows))
    print(f"\n{'':{width}}" + "".join(f"{name:>18}" for name in learnt))
    for row in rows:
        values = (
            f"{row.metrics[name]:18.3f}" if name in row.metrics else " " * 18 for name in learnt
        )
        print(f"{row.source[:width]:{width}}" + "".join(values))
    closed = (learnt["fidelity"] - floor["fidelity"]) / (ceiling["fidelity"] - floor["fidelity"])
    kept = learnt["prompt_adherence"] / floor["prompt_adherence"]
    print(f"\nfidelity has come {closed:.0%} of the way from the words to real pictures")
    print(f"prompt adherence is {kept:.0%} of what the words score")


def print_drift(
    config: FinetuneConfig,
    before: Sequence[Sequence[Image.Image]],
    after: Sequence[Sequence[Image.Image]],
) -> None:
    """How far pictures of the plain words, with the same seeds, have come from what they were."""
    assert config.inference.scorer_name_or_path is not None
    scorer = score.load_scorer(config.inference.scorer_name_or_path, None, torch.device("cpu"))
    seen = [
        {str(place): scorer.see(images).clip for place, images in enumerate(drawn)}
        for drawn in (before, after)
    ]
    print(f"without the word, pictures have drifted by {drift(*seen):.3f}")


def show(
    real: Sequence[Image.Image],
    before: Sequence[Sequence[Image.Image]],
    after: Sequence[Sequence[Image.Image]],
    prompts: Sequence[str],
) -> Image.Image:
    """Real pictures, then a row a prompt: before on the left, after on the right."""
    columns = 2 * SHOWN
    chosen = [real[place * len(real) // columns] for place in range(columns)]
    tiles, labels = list(chosen), ["real pictures", *[""] * (columns - 1)]
    for prompt, old, new in zip(prompts, before, after, strict=True):
        tiles += [*old[:SHOWN], *new[:SHOWN]]
        labels += [
            f"before: {prompt}",
            *[""] * (SHOWN - 1),
            f"after: {prompt}",
            *[""] * (SHOWN - 1),
        ]
    return gallery.sheet(tiles, columns, "what was learnt from", labels)


if __name__ == "__main__":
    main()
