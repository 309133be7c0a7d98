"""What a GPU is to reach, and what it reached, as a table. This file knows the goals."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.jobs import Result

Figures = dict[str, Any]


def median_of(key: str, whose: str = "ours") -> Callable[[Figures], float]:
    """Return what takes the median of a cost over the runs."""
    return lambda figures: statistics.median(cost[key] for cost in figures["costs"][whose])


def samples_a_second(figures: Figures) -> float:
    """Return the samples that ours trains; with LoRA those of the class count, too."""
    batch = int(figures["asked"]["batch"]) * (2 if figures["asked"]["method"] == "lora" else 1)
    return batch / median_of("step")(figures)


def ratio_of(name: str) -> Callable[[Figures], float]:
    """Return what takes the median of a ratio over the pairs."""
    return lambda figures: statistics.median(figures["ratios"][name])


def percent_of_peak(figures: Figures) -> float:
    """Return the share of the device's arithmetic that was used."""
    return float(100 * figures["tflops"] / figures["peak_tflops"])


class Goal(NamedTuple):
    """A figure of a job; without a bound it is only told."""

    what: str
    job: str
    value: Callable[[Figures], float]
    least: float | None = None
    most: float | None = None

    @property
    def wanted(self) -> str:
        """The bound in words."""
        if self.least is not None:
            return f"at least {self.least:g}"
        return f"under {self.most:g}" if self.most is not None else ""

    def verdict(self, value: float) -> str:
        """Return whether it is met."""
        if self.least is None and self.most is None:
            return ""
        met = value >= self.least if self.least is not None else value < (self.most or 0.0)
        return "met" if met else "not met"


OVER_THEIRS = "samples/s, ours over theirs"
IMAGES = median_of("rate")
GOALS = (
    Goal("words, batch 4: samples/s", "words-4", samples_a_second),
    Goal("words, batch 4: × diffusers' script", "words-4", ratio_of(OVER_THEIRS), least=4),
    Goal("words, batch 4: GB on the device", "words-4", median_of("device_gb"), most=8),
    Goal("words, batch 4: first step after s", "words-4", median_of("first_step")),
    Goal("words, batch 32: samples/s", "words-32", samples_a_second, least=135),
    Goal("the same, aimed at", "words-32", samples_a_second, least=240),
    Goal("words, batch 32: TFLOP/s", "words-32", lambda figures: figures["tflops"]),
    Goal("words, batch 32: % of the peak", "words-32", percent_of_peak),
    Goal("words, batch 32, blocks compiled: samples/s", "words-32-compiled", samples_a_second),
    Goal("2,000 samples, command to file: s", "basic", median_of("seconds"), most=30),
    Goal("the same, the UNet recorded", "basic-graph", median_of("seconds"), most=30),
    Goal("50 steps: images/s", "images-50", IMAGES, least=4.8),
    Goal("50 steps: % of the peak", "images-50", percent_of_peak),
    Goal("25 steps: images/s", "images-25", IMAGES, least=9),
    Goal("50 steps, blocks compiled: images/s", "images-50-compiled", IMAGES),
    Goal("LoRA with a prior, batch 4: samples/s", "lora-4", samples_a_second),
    Goal("LoRA with a prior, batch 4: × diffusers' script", "lora-4", ratio_of(OVER_THEIRS)),
    Goal("LoRA with a prior, batch 4: GB on the device", "lora-4", median_of("device_gb")),
    Goal("SDXL, words, batch 4: samples/s", "words-4-sdxl", samples_a_second),
)


def table(results: Sequence[Result], about: Mapping[str, Any], goals: Sequence[Goal]) -> str:
    """Return the page: what it ran on, each figure that there is, and what became of each job."""
    found = {result.name: result for result in results}
    lines = [
        f"## {about['device']}, {about['date']}",
        "",
        f"torch {about['torch']}, Python {about['python']}; SD 1.x geometry at 512 in bf16, images "
        "in fp16, where nothing else is said. `make gpu`:",
        "",
        "| | measured | wanted | |",
        "|---|---|---|---|",
    ]
    for goal in goals:
        value = measured(goal, found.get(goal.job))
        if value is not None:
            verdict = goal.verdict(value)
            lines.append(f"| {goal.what} | {value:.3g} | {goal.wanted} | {verdict} |")
        elif goal.wanted:
            lines.append(f"| {goal.what} | not measured | {goal.wanted} | |")
    lines += ["", "| job | | s | command |", "|---|---|---|---|"]
    lines += [
        f"| {one.name} | {one.outcome} | {one.seconds:.0f} | `{one.command}` |" for one in results
    ]
    return "\n".join(lines) + "\n"


def measured(goal: Goal, result: Result | None) -> float | None:
    """Return the goal's figure, if its job came to one."""
    if result is None or not result.figures:
        return None
    try:
        return goal.value(result.figures)
    # Without the peer there are no ratios, and a run too short for a rate has none.
    except (KeyError, TypeError, statistics.StatisticsError):
        return None
