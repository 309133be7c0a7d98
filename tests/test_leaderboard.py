"""The table of a search, best first, and the pictures of its best trials."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detsd.gallery import MARGIN
from detsd.leaderboard import (
    MOST_PIXELS,
    SHOWN,
    aligned,
    best_pictures,
    last_samples,
    ranked,
    table,
    write_leaderboard,
)


def trial(folder: Path, *validations: dict[str, float], every: int = 10) -> Path:
    """Write what a trial has reported, the first before its first step."""
    folder.mkdir()
    lines = [
        {"step": every * place, "group": group, "metrics": metrics}
        for place, validation in enumerate(validations)
        # Training reports a loss too, and it is none of the searcher's.
        for group, metrics in (("training", {"loss": -9.0}), ("validation", validation))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def sample(folder: Path, step: int, color: str, name: str = "00-a", size: int = 200) -> None:
    path = folder / "samples" / f"step-{step:06d}" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), color).save(path)


@pytest.fixture
def trials(tmp_path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A good one that got worse again, a better one, one that reported nothing, a poor one."""
    good = trial(tmp_path / "001", *({"loss": x, "quality": 1 - x} for x in (0.9, 0.5, 0.7)))
    better = trial(tmp_path / "002", {"loss": 0.9, "quality": 0.1, "steps": 0}, {"loss": 0.25})
    silent = tmp_path / "003"
    poor = trial(tmp_path / "004", {"loss": float("nan"), "quality": 0.0}, {"loss": 0.8})
    folders = (good, better, silent, poor)
    return [(folder, {"training.learning_rate": place / 3}) for place, folder in enumerate(folders)]


def names(rows: list[Any]) -> list[str]:
    return [row.folder.name for row in rows]


def test_trials_are_ranked_by_their_best_validation(trials):
    rows = ranked(trials, [], "loss", smaller_is_better=True)
    assert names(rows) == ["002", "001", "004", "003"]
    assert [row.step for row in rows] == [10, 10, 10, None]
    assert rows[1].metrics == {"loss": 0.5, "quality": 0.5}  # those of that step
    rows = ranked(trials, [], "quality", smaller_is_better=False)
    assert names(rows) == ["001", "002", "004", "003"]
    assert [row.step for row in rows] == [10, 0, 0, None]


def test_a_tie_goes_to_the_fewest_steps_and_to_the_first_trial(tmp_path):
    tied = [(trial(tmp_path / name, {"loss": 1.0}, {"loss": 1.0}), {}) for name in "ba"]
    rows = ranked(tied, [], "loss", smaller_is_better=False)
    assert [(row.folder.name, row.step) for row in rows] == [("b", 0), ("a", 0)]


def test_the_table_has_a_row_a_trial_and_says_which_failed(trials, tmp_path):
    said = write_leaderboard(
        tmp_path, trials, [tmp_path / "004"], "quality", smaller_is_better=False
    )
    with (tmp_path / "results.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head == ["trial", "state", "training.learning_rate", "quality", "step", "loss"]
    assert rows[0] == ["001", "done", "0.0", "0.5", "10", "0.5"]
    assert rows[2][:2] == ["004", "failed"]
    assert rows[3] == ["003", "done", str(2 / 3), "", "", ""]
    lines = said.splitlines()
    assert lines[0].split() == ["trial", "state", "learning_rate", "quality", "step", "loss"]
    assert lines[4].split() == ["003", "done", "0.6667", "-", "-", "-"]
    assert "results.csv" in lines[-1]
    assert not (tmp_path / "best.png").exists()  # no trial has a picture


def test_columns_stand_below_each_other():
    lines = aligned([["trial", "a.long_name"], ["x" * 9, 1.0], ["y", None]]).splitlines()
    assert {line.index(cell) for line, cell in zip(lines, ("long", "1", "-"), strict=True)} == {11}


def test_a_metric_that_no_trial_reports_is_named(trials, tmp_path):
    said = write_leaderboard(tmp_path, trials, [], "qualty", smaller_is_better=False)
    assert "no trial has reported the validation metric qualty" in said
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 5


def test_the_pictures_are_the_last_of_the_best_a_row_a_trial(trials, tmp_path):
    good, better, silent, poor = (folder for folder, _ in trials)
    sample(good, 0, "black")
    sample(good, 10, "red")
    sample(good, 10, "green", "01-b", size=150)
    sample(better, 9, "black")
    sample(better, 10, "blue")
    sample(silent, 10, "black")  # without a metric it is none of the best
    write_leaderboard(tmp_path, trials, [], "loss", smaller_is_better=True)
    with Image.open(tmp_path / "best.png") as page:
        colors = {color for _, color in page.getcolors(maxcolors=1 << 24)}
        assert {(255, 0, 0), (0, 128, 0), (0, 0, 255)} <= colors
        assert page.width == 2 * (200 + MARGIN) + MARGIN
        # Blue, the best, above the two of the other; what is written is black.
        assert page.getpixel((MARGIN + 100, 100)) == (0, 0, 255)
        assert page.getpixel((MARGIN + 100, page.height // 2 + 100)) == (255, 0, 0)
        assert page.getpixel((2 * MARGIN + 250, 100)) == (255, 255, 255)


def test_no_more_than_the_best_few_are_shown_and_none_too_large(tmp_path):
    many = [(trial(tmp_path / f"{n}", {"loss": float(n)}), {}) for n in range(SHOWN + 1)]
    for folder, _ in many:
        sample(folder, 0, "red" if folder.name != str(SHOWN) else "blue", size=2 * MOST_PIXELS)
    rows = ranked(many, [], "loss", smaller_is_better=True)
    page = best_pictures(rows, "loss")
    assert page is not None
    assert page.width == MOST_PIXELS + 2 * MARGIN
    assert (0, 0, 255) not in {color for _, color in page.getcolors(maxcolors=1 << 24)}
    assert len(table(rows, "loss")) == 1 + len(many)


def test_the_last_samples_are_those_of_the_highest_step(tmp_path):
    for step in (2, 1000000, 30):
        sample(tmp_path, step, "red")
    assert [path.parent.name for path in last_samples(tmp_path)] == ["step-1000000"]
    assert last_samples(tmp_path / "none") == []
