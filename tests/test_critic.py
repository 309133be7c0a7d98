import json

import pytest
import torch

from detsd.config import ConfigError, FinetuneConfig, read
from tests.trials import changed, last, run

SCORES = {"fidelity", "prompt_adherence", "diversity", "copying", "quality"}


@pytest.fixture
def scored(hparams, scorer_folder):
    hparams["inference"] = {
        "scorer_name_or_path": str(scorer_folder),
        "inference_prompts": ["a photo of a det-logo", "the same without", "a red det-logo"],
        "num_inference_steps": 2,
        "inference_batch_size": 2,
    }
    return changed(hparams, training__num_sgd_steps=4)


def measured(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {one["step"]: one["metrics"] for one in lines if one["group"] == "validation"}


def test_each_checkpoint_is_scored_beside_its_loss(tmp_path, scored):
    metrics = measured(run(tmp_path / "a", scored))
    assert list(metrics) == [0, 2, 4]
    assert all(set(row) == {"loss", "steps", *SCORES} for row in metrics.values())
    assert [row["steps"] for row in metrics.values()] == [0, 2, 4]


def test_without_a_scorer_nothing_is_scored(tmp_path, hparams):
    metrics = measured(run(tmp_path / "a", changed(hparams, training__num_sgd_steps=2)))
    assert all(set(row) == {"loss", "steps"} for row in metrics.values())


def test_the_untouched_words_score_as_the_first_samples_do(tmp_path, scored):
    """The vectors start as the initializer's tokens, so that step 0 draws the same pictures."""
    metrics = measured(run(tmp_path / "a", scored))
    state = torch.load(last(tmp_path / "a") / "resume/state.pt", weights_only=True)
    plain = state["run"]["references"]["scores"][1]
    assert plain == pytest.approx(metrics[0]["prompt_adherence"], abs=1e-4)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_scores_of_a_resumed_run_are_those_of_a_straight_one(tmp_path, scored, stop_at):
    straight = measured(run(tmp_path / "straight", scored))
    run(tmp_path / "stopped", scored, stop_at=stop_at)
    assert measured(run(tmp_path / "stopped", scored)) == straight


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"inference_prompts": ["no concept"]}, "needs an inference prompt that names a concept"),
        ({"generate_training_images": False}, "needs an inference prompt that names a concept"),
        ({"scorer_name_or_path": "./nowhere"}, "no such folder"),
        ({"scorer_name_or_path": None, "dino_name_or_path": "a/b"}, "needs inference.scorer"),
    ],
)
def test_what_cannot_be_scored_is_refused_at_once(scored, changes, problem):
    scored["inference"] |= changes
    with pytest.raises(ConfigError, match=problem):
        read(FinetuneConfig, scored)


@pytest.mark.parametrize("junk", [5, True, None, [""], {"a": 1}, [3, None]])
@pytest.mark.parametrize(
    "place", [("inference", "inference_prompts"), ("concepts", "concept_strs")]
)
def test_junk_beside_a_scorer_is_an_error_and_no_crash(scored, junk, place):
    section, key = place
    scored[section] = {**scored[section], key: junk}
    with pytest.raises(ConfigError):
        read(FinetuneConfig, scored)


def test_another_way_of_scoring_starts_the_references_anew(tmp_path, scored, caplog):
    folder = run(tmp_path / "a", changed(scored, training__num_sgd_steps=2))
    run(folder, changed(scored, inference__guidance_scale=2.0))
    assert "scored in another way since the checkpoint" in caplog.text
    caplog.clear()
    run(folder, changed(scored, inference__guidance_scale=2.0, training__num_sgd_steps=6))
    assert "scored in another way" not in caplog.text


def test_samples_are_drawn_as_often_as_asked(tmp_path, scored, hparams):
    def steps(folder):
        return [path.name for path in sorted((folder / "samples").iterdir())]

    rarely = changed(scored, inference__sample_freq=100)
    assert steps(run(tmp_path / "a", rarely)) == ["step-000000", "step-000002", "step-000004"]
    del rarely["inference"]["scorer_name_or_path"]
    assert steps(run(tmp_path / "b", rarely)) == ["step-000000", "step-000004"]
