import math

import pytest
import torch
from safetensors.torch import load_file

from detsd import finetune
from detsd.config import ConfigError, EarlyStopConfig, FinetuneConfig, read
from detsd.earlystop import Never, early_stop
from tests.trials import changed, exports, last, rows, run


class Learner:
    """Stands for a method: its state is a number."""

    def __init__(self):
        self.value = torch.tensor(0)

    def state_dict(self):
        return {"rows": self.value}

    def load_state_dict(self, state):
        self.value = state["rows"]


def watch(metric, patience, values, state=None):
    learner = Learner()
    stopper = early_stop(
        EarlyStopConfig(metric=metric, patience=patience), learner, state or {}, "basis"
    )
    for step, value in enumerate(values):
        learner.value = torch.tensor(step)
        stopper.see(step, {metric: value})
    return learner, stopper


@pytest.mark.parametrize(
    ("metric", "values", "best", "done"),
    [
        ("loss", [3, 2, 2, 2], 1, True),
        ("loss", [3, 2, 2], 1, False),
        ("loss", [3, 4, 2, 4], 2, False),
        ("quality", [0.1, 0.3, 0.2, 0.1], 1, True),
        ("quality", [0.1, 0.2, 0.3, 0.4], 3, False),
        ("copying", [0.1, 0.2, 0.3], 0, True),
    ],
)
def test_patience_ends_where_nothing_is_better(metric, values, best, done):
    learner, stopper = watch(metric, 2, values)
    assert stopper.done is done
    with stopper.best() as step:
        assert step == learner.value == best
    assert learner.value == len(values) - 1


def test_it_goes_on_from_its_state():
    _, first = watch("loss", 3, [3, 2, 4])
    learner, second = watch("loss", 3, [5], first.state())
    assert second.state()["waited"] == 2 and not second.done
    with second.best() as step:
        assert step == learner.value == 1
    _, other = watch("quality", 3, [], first.state())
    assert other.state()["value"] is None


def test_what_does_not_compare_is_forgotten():
    _, first = watch("quality", 3, [1, 2])
    state = first.state()
    assert watch("quality", 3, [], state)[1].state()["value"] == 2
    rescored = early_stop(EarlyStopConfig(metric="quality", patience=3), Learner(), state, "other")
    assert rescored.state()["value"] is None
    state["method"] = {"rows": torch.zeros(2)}
    assert watch("quality", 3, [], state)[1].state()["value"] is None


def test_without_a_rule_nothing_ends_a_run():
    stopper = early_stop(None, Learner(), {}, "")
    stopper.see(1, {"loss": math.inf})
    assert isinstance(stopper, Never) and not stopper.done and stopper.state() == {}


@pytest.fixture
def worsening(hparams, monkeypatch):
    """A run whose validation loss is at its best at step 2."""
    monkeypatch.setattr(
        finetune,
        "validate",
        lambda run, drawn: {"loss": abs(run.step - 2) + 1.0, "steps": run.step},
    )
    hparams = changed(hparams, training__num_sgd_steps=20)
    hparams["training"]["early_stop"] = {"metric": "loss", "patience": 2}
    return hparams


def test_a_run_ends_early_with_its_best_rows_exported(tmp_path, worsening, caplog):
    caplog.set_level("INFO")
    folder = run(tmp_path / "a", worsening)
    assert last(folder).name == "step-000006"
    assert "its best was 1.0000 at step 2" in caplog.text
    (best,) = load_file(folder / "checkpoints/step-000002/export/det-logo.safetensors").values()
    (exported,) = rows(folder).values()
    assert torch.equal(exported, best)
    state = torch.load(last(folder) / "resume/state.pt", weights_only=True)
    assert not torch.equal(state["method"]["det-logo/clip_l"], best)
    assert state["run"]["early_stop"]["value"] == 1 and state["run"]["early_stop"]["waited"] == 2


def test_a_finished_one_stays_finished_until_patience_is_raised(tmp_path, worsening):
    folder = run(tmp_path / "a", worsening)
    before = exports(folder)
    run(folder, worsening)
    assert (exports(folder), last(folder).name) == (before, "step-000006")
    worsening["training"]["early_stop"]["patience"] = 3
    run(folder, worsening)
    assert last(folder).name == "step-000008"


def test_patience_that_ends_after_a_stop_is_kept(tmp_path, worsening):
    """The stop comes at the step whose measures end the run: they are taken by the next start."""
    folder = run(tmp_path / "a", worsening, stop_at=6)
    state = torch.load(last(folder) / "resume/state.pt", weights_only=True)["run"]
    assert state["reviewed"] is False and state["early_stop"]["waited"] == 1
    run(folder, worsening)
    lines = (folder / "metrics.jsonl").read_text()
    state = torch.load(last(folder) / "resume/state.pt", weights_only=True)["run"]
    assert state["reviewed"] is True and state["early_stop"]["waited"] == 2
    run(folder, worsening)
    assert (folder / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize("stop_at", [2, 3, 4, 6])
def test_an_interrupted_one_ends_where_a_straight_one_does(tmp_path, worsening, stop_at):
    straight = run(tmp_path / "straight", worsening)
    run(tmp_path / "stopped", worsening, stop_at=stop_at)
    stopped = run(tmp_path / "stopped", worsening)
    assert last(stopped).name == last(straight).name
    assert exports(stopped) == exports(straight)


def test_a_metric_that_nothing_measures_is_refused(hparams):
    hparams["training"]["early_stop"] = {"metric": "quality", "patience": 2}
    with pytest.raises(ConfigError, match="quality needs inference.scorer_name_or_path"):
        read(FinetuneConfig, hparams)
    hparams["training"]["early_stop"]["metric"] = "beauty"
    with pytest.raises(ConfigError, match="training.early_stop.metric"):
        read(FinetuneConfig, hparams)
