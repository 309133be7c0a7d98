"""The trials of a search side by side: a table, best first, and the last pictures of the best."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from detsd.gallery import sheet
from detsd.runfolder import METRICS, read_metrics
from detsd.storage import write_whole

TABLE = "results.csv"
PICTURES = "best.png"
SHOWN = 4
MOST_PIXELS = 768  # of a sample sheet's longer side: these are sheets of sheets
Trials = Sequence[tuple[Path, Mapping[str, Any]]]  # the folder of each, and what it varies


class Row(NamedTuple):
    """A trial: what it varies, and the validation at which its metric was best, if it has one."""

    folder: Path
    varied: Mapping[str, Any]
    failed: bool
    step: int | None
    metrics: Mapping[str, float]


def write_leaderboard(
    folder: Path,
    trials: Trials,
    failed: Collection[Path],
    metric: str,
    *,
    smaller_is_better: bool,
) -> str:
    """Write the table, and the pictures if there are any, into the folder; return what to say."""
    rows = ranked(trials, failed, metric, smaller_is_better=smaller_is_better)
    cells = table(rows, metric)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    write_whole(folder / TABLE, text.getvalue())
    page = best_pictures(rows, metric)
    if page is not None:
        part = folder / f".{PICTURES}.part"
        page.save(part, "PNG")
        part.replace(folder / PICTURES)
    return f"{aligned(cells)}\n{_remark(folder, rows, metric, pictured=page is not None)}"


def ranked(
    trials: Trials, failed: Collection[Path], metric: str, *, smaller_is_better: bool
) -> list[Row]:
    """Return the trials, the best first; those that have never reported the metric last."""
    sign = 1 if smaller_is_better else -1
    rows = []
    for folder, varied in trials:
        best = min(
            _validations(folder, metric), key=lambda one: sign * one[1][metric], default=(None, {})
        )
        rows.append(Row(folder, varied, folder in failed, *best))
    return sorted(rows, key=lambda row: sign * row.metrics.get(metric, sign * math.inf))


def _validations(folder: Path, metric: str) -> list[tuple[int | None, dict[str, float]]]:
    return [
        (line["step"], line["metrics"])
        for line in read_metrics(folder / METRICS)
        if line["group"] == "validation" and math.isfinite(line["metrics"].get(metric, math.nan))
    ]


def table(rows: Sequence[Row], metric: str) -> list[list[Any]]:
    """Return the cells, with the names of the columns above them."""
    varied = list(dict.fromkeys(name for row in rows for name in row.varied))
    # `steps`, which a cluster's searcher wants among the metrics, is the step once more.
    others = sorted({name for row in rows for name in row.metrics} - {metric, "steps"})
    cells: list[list[Any]] = [["trial", "state", *varied, metric, "step", *others]]
    for row in rows:
        known = [row.folder.name, "failed" if row.failed else "done", *map(row.varied.get, varied)]
        cells.append([*known, row.metrics.get(metric), row.step, *map(row.metrics.get, others)])
    return cells


def aligned(cells: Sequence[Sequence[Any]]) -> str:
    """Return the cells as lines to read: short names, four digits, columns below each other."""
    short = [[name.split(".")[-1] for name in cells[0]]]
    short += [[_short(cell) for cell in row] for row in cells[1:]]
    widths = [max(map(len, column)) for column in zip(*short, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in short
    )


def _short(cell: Any) -> str:
    return "-" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def best_pictures(rows: Sequence[Row], metric: str) -> Image.Image | None:
    """Return the last sample sheets of the best trials that have some, a row of them a trial."""
    known = [(row, last_samples(row.folder)) for row in rows if row.metrics]
    shown = [(row, found) for row, found in known if found][:SHOWN]
    if not shown:
        return None
    columns = max(len(found) for _, found in shown)
    blank = Image.new("RGB", (1, 1), "white")
    tiles: list[Image.Image] = []
    labels: list[str] = []
    for row, found in shown:
        tiles += [_small(path) for path in found] + [blank] * (columns - len(found))
        value = f"{metric} {row.metrics[metric]:.4g} at step {row.step}"
        label = f"{row.folder.name}: {value}; drawn at step {_step(found[0].parent)}"
        labels += [label] + [""] * (columns - 1)
    size = (max(tile.width for tile in tiles), max(tile.height for tile in tiles))
    return sheet([_on_white(tile, size) for tile in tiles], columns, labels=labels)


def last_samples(folder: Path) -> list[Path]:
    """Return the sample sheets of the last step that has any."""
    steps = {path.parent for path in folder.glob("samples/step-*/*.png")}
    last = max(steps, key=_step, default=None)
    return sorted(last.glob("*.png")) if last else []


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _small(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.thumbnail((MOST_PIXELS, MOST_PIXELS))
        return image.convert("RGB")


def _on_white(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    page = Image.new("RGB", size, "white")
    page.paste(image)
    return page


def _remark(folder: Path, rows: Sequence[Row], metric: str, *, pictured: bool) -> str:
    if not any(row.metrics for row in rows):
        return f"no trial has reported the validation metric {metric}, which searcher.metric names"
    pictures = f"; the pictures of the best: {folder / PICTURES}" if pictured else ""
    return f"the table: {folder / TABLE}{pictures}"
