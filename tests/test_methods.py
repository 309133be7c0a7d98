"""LoRA, full fine-tuning and the prior in the loop: exact, whole, and each part as it is asked."""

import pytest
import torch

from detsd.config import ConfigError, FinetuneConfig, read
from detsd.data import read_examples
from detsd.generate import load_pipeline
from detsd.run import prepare
from tests.conftest import read_lines
from tests.trials import (
    CLASS,
    EVERYTHING,
    FULL,
    LORA,
    WORDED,
    exports,
    last,
    learnt,
    run,
    run_together,
    same,
)

KINDS = {
    "lora": ("sd1", LORA, None, {}),
    "everything": ("sdxl", EVERYTHING, CLASS, {"gradient_checkpointing": True}),
    "distilled": ("sd2", EVERYTHING, {"kind": "distill", **CLASS}, {"snr_gamma": 5.0}),
    "full": ("sdxl", FULL, CLASS, {"max_grad_norm": 1.0}),
    "full with words": ("sd1", WORDED, {"kind": "distill", **CLASS}, {}),
    "full with words in bf16": ("sd2", WORDED, CLASS, {"precision": "bf16"}),
    "full, distilled": ("sd1", {"kind": "full"}, {"kind": "distill", **CLASS}, {}),
    "full, 8 bits": ("sd2", {"kind": "full"}, None, {"optimizer_name": "adamw8bit"}),
    "lora in bf16": ("sd1", EVERYTHING, {"kind": "distill", **CLASS}, {"precision": "bf16"}),
    "full in bf16": (
        "sd1",
        FULL,
        {"kind": "distill", **CLASS},
        {"precision": "bf16", "gradient_checkpointing": True},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_ends_where_a_straight_one_does(tmp_path, make, kind):
    family, method, prior, training = KINDS[kind]
    hparams = make(method, prior, family, **training)
    straight = run(tmp_path / "straight", hparams)
    run(tmp_path / "stopped", hparams, stop_at=3)
    stopped = run(tmp_path / "stopped", hparams)
    assert same(stopped, straight)
    assert exports(stopped) == exports(straight)
    assert {value.dtype for value in learnt(straight).values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_processes_agree_with_one_and_go_on_where_they_stopped(tmp_path, make, kind):
    family, method, _, training = KINDS[kind]
    hparams = make(method, CLASS, family, **training, optimizer_name="sgd")
    two = run_together(tmp_path / "two", hparams)
    run_together(tmp_path / "stopped", hparams, stop_at=3)
    assert same(run_together(tmp_path / "stopped", hparams), two)
    assert exports(tmp_path / "stopped") == exports(two)
    one, two = learnt(run(tmp_path / "one", hparams)), learnt(two)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_every_part_of_a_method_learns(tmp_path, make):
    short = learnt(run(tmp_path, make(EVERYTHING, num_sgd_steps=2)))
    long = learnt(run(tmp_path, make(EVERYTHING, num_sgd_steps=4)))
    still = {name for name in long if torch.equal(long[name], short[name])}
    assert still == {"fbernuy/clip_l@start"}
    kinds = ("attn1.to_q", "ff.net.2", "conv1", "proj_in", "self_attn.q_proj", "fbernuy/clip_l")
    assert all(any(kind in name for name in long) for kind in kinds)


def test_each_part_has_its_own_learning_rate(tmp_path, make):
    frozen = {**EVERYTHING, "text_encoder_learning_rate": 0, "vectors_learning_rate": 0}
    short = learnt(run(tmp_path, make(frozen, num_sgd_steps=2)))
    long = learnt(run(tmp_path, make(frozen, num_sgd_steps=4)))
    moved = {name for name in long if not torch.equal(long[name], short[name])}
    assert moved == {name for name in long if name.startswith("unet.")}


def test_the_terms_are_reported_apart_and_add_up(tmp_path, make):
    lines = read_lines(run(tmp_path, make(LORA, CLASS)) / "metrics.jsonl")
    reports = [line["metrics"] for line in lines if line["group"] == "training"]
    for metrics in reports:
        parts = metrics["instance_loss"] + metrics["prior_loss"]
        assert metrics["loss"] == pytest.approx(parts, rel=1e-5)
        assert min(metrics["instance_loss"], metrics["prior_loss"]) > 0
        assert metrics["peak_memory_gb"] > 0


def test_a_teacher_that_has_learnt_nothing_finds_no_fault(tmp_path, make):
    """With a rate of 0 the model stays what it was, and its own prediction costs nothing."""
    for method in (LORA, {"kind": "full"}):
        folder = tmp_path / method["kind"]
        run(folder, make(method, {"kind": "distill", **CLASS}, learning_rate=0))
        lines = read_lines(folder / "metrics.jsonl")
        losses = [line["metrics"]["prior_loss"] for line in lines if line["group"] == "training"]
        assert losses == [0, 0]


def test_micro_batches_change_memory_and_not_results(tmp_path, make):
    # Adam makes as much of a gradient that is mere rounding as of any other.
    sgd = {"optimizer_name": "sgd", "learning_rate": 0.1}
    whole = learnt(run(tmp_path / "whole", make(LORA, CLASS, **sgd)))
    for size in (1, 3):
        pieces = learnt(run(tmp_path / f"{size}", make(LORA, CLASS, **sgd, micro_batch_size=size)))
        assert all(torch.allclose(pieces[name], whole[name], atol=1e-6) for name in whole)


@pytest.mark.parametrize(
    "method",
    [EVERYTHING, {"kind": "full"}, {**WORDED, "ema_decay": None}],
    ids=["lora", "full", "full with words"],
)
@pytest.mark.parametrize("named", ["", "export"])
def test_another_trials_export_is_where_a_run_starts(tmp_path, make, method, named):
    first = run(tmp_path / "first", make(method, num_sgd_steps=2))
    still = {**method, "alpha": 2.0} if method["kind"] == "lora" else method
    still |= {key: 0 for key in method if key.endswith("_rate")}
    hparams = make(still, learning_rate=0, num_sgd_steps=2)
    second = run(tmp_path / "second", hparams, warm_start=last(first) / named)
    before, after = learnt(first), learnt(second)
    for name in before:
        # With half the alpha of before what is learnt has to be twice as large.
        times = 2 if name.endswith(".up") else 1
        assert name.endswith("@start") or torch.allclose(times * before[name], after[name])


def test_a_model_knows_in_training_the_words_that_it_is_drawn_with(tmp_path, make, caplog):
    first = last(run(tmp_path / "first", make({**WORDED, "ema_decay": None}, num_sgd_steps=2)))
    before = learnt(tmp_path / "first")["fbernuy/clip_l"]

    def further(name, method, **changes):
        hparams = make(method, num_sgd_steps=2, **changes)
        hparams["model"]["pretrained_model_name_or_path"] = str(first)
        return run(tmp_path / name, hparams)

    drawn_with = load_pipeline(first).model.text.tokenize(["a fbernuy"])
    seen = []
    hparams = make(LORA)
    hparams["model"]["pretrained_model_name_or_path"] = str(first)

    def look(trial):
        config = read(FinetuneConfig, trial.hparams)
        model = prepare(config, trial, read_examples(config.concepts), None).model
        seen.extend(model.text.tokenize(["a fbernuy"]))
        table = model.encoders[0].module.get_input_embeddings()
        assert not any(rows.requires_grad for rows in table.rows)

    run(tmp_path / "look", hparams, work=look)
    assert all(map(torch.equal, seen, drawn_with))
    still = {**LORA, "vectors_learning_rate": 0}
    assert torch.equal(learnt(further("pivotal", still))["fbernuy/clip_l"], before)
    further("full", {"kind": "full"})
    assert "the model's own fbernuy: known here, and not in what is exported" in caplog.text


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({"kind": "textual_inversion"}, LORA, "holds words"),
        (LORA, {"kind": "textual_inversion"}, "holds an adapter"),
        (LORA, {"kind": "full"}, "holds an adapter"),
        ({"kind": "full"}, LORA, "holds a whole model"),
        (LORA, {**LORA, "rank": 2}, "adapter has rank 4: rank"),
        (LORA, {**LORA, "dora": True}, "with DoRA or without: dora"),
        ({**LORA, "text_encoder_learning_rate": 1}, LORA, "changes text_encoder.* too"),
        (FULL, {"kind": "full"}, "text_encoder has learnt, too"),
    ],
)
def test_a_start_that_would_not_be_one_is_refused(tmp_path, make, first, second, problem):
    other = run(tmp_path / "first", of_kind(make, first))
    with pytest.raises(ConfigError, match=problem):
        run(tmp_path / "second", of_kind(make, second), warm_start=last(other))


@pytest.mark.parametrize("method", [LORA, {"kind": "full"}], ids=["lora", "full"])
def test_a_start_of_another_family_is_refused(tmp_path, make, method):
    other = run(tmp_path / "first", make(method, family="sd2", num_sgd_steps=2))
    with pytest.raises(ValueError, match="another base model"):
        run(tmp_path / "second", make(method, num_sgd_steps=2), warm_start=last(other))


def of_kind(make, method):
    hparams = make(method, num_sgd_steps=2)
    if method["kind"] == "textual_inversion":
        hparams["concepts"]["learnable_properties"] = "object"
    return hparams


def test_dropout_and_the_priors_weight_make_a_difference(tmp_path, make):
    plain = run(tmp_path / "plain", make(LORA, CLASS))
    assert not same(run(tmp_path / "dropped", make({**LORA, "dropout": 0.5}, CLASS)), plain)
    assert not same(run(tmp_path / "weighted", make(LORA, {**CLASS, "weight": 0.5})), plain)
    assert not same(run(tmp_path / "alpha", make({**LORA, "alpha": 1}, CLASS)), plain)


def test_samples_show_the_word_and_what_there_is_without_it(tmp_path, make):
    hparams = make(LORA, num_sgd_steps=2)
    hparams["concepts"].pop("initializer_strs")
    hparams["inference"] = {"inference_prompts": "a fbernuy logo", "num_inference_steps": 2}
    folder = run(tmp_path, hparams)
    for step in (0, 2):
        shown = sorted(path.name for path in (folder / f"samples/step-{step:06d}").iterdir())
        assert shown == ["00-a-fbernuy-logo.png", "01-a-logo.png"]


def test_drift_says_how_far_pictures_without_the_word_have_come(tmp_path, make, scorer_folder):
    hparams = make({"kind": "full"}, learning_rate=1e-2)
    hparams["inference"] = {
        "inference_prompts": "a fbernuy logo",
        "num_inference_steps": 2,
        "scorer_name_or_path": str(scorer_folder),
    }
    lines = read_lines(run(tmp_path / "straight", hparams) / "metrics.jsonl")
    drifts = [line["metrics"]["drift"] for line in lines if line["group"] == "validation"]
    assert drifts[0] == pytest.approx(0, abs=1e-6)
    assert drifts[-1] > 1e-4
    run(tmp_path / "stopped", hparams, stop_at=3)
    lines = read_lines(run(tmp_path / "stopped", hparams) / "metrics.jsonl")
    again = [line["metrics"]["drift"] for line in lines if line["group"] == "validation"]
    assert again == drifts


def test_captions_alone_are_enough_for_all_weights(tmp_path, make, pictures):
    hparams = make({"kind": "full"}, num_sgd_steps=2)
    hparams["concepts"] = {"img_dirs": str(pictures)}
    with pytest.raises(ConfigError, match="nothing says what .*on_a_wall_0.png shows"):
        run(tmp_path / "without", hparams)
    for picture in sorted(pictures.glob("*.png")):
        picture.with_suffix(".txt").write_text("a painting on paper")
    run(tmp_path / "with", hparams)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": {"kind": "loar"}}, "method.kind: one of textual_inversion, lora, full"),
        ({"method": {"rank": 4}}, "method.kind: one of .* is wanted, found None"),
        ({"method": {"kind": "lora", "rnak": 4}}, "method.rnak: unknown; did you mean rank"),
        ({"method": {"kind": "full", "rank": 4}}, "method.rank: unknown"),
        ({"method": {"kind": "lora", "targets": "atention"}}, "method.targets.*one of attention"),
        ({"method": {"kind": "textual_inversion"}, "prior": CLASS}, "prior: textual inversion"),
        ({"prior": {"class_prompt": ""}}, "prior.class_prompt: a phrase for the class"),
        ({"prior": {"class_prompt": []}}, "prior.class_prompt: a phrase for the class"),
        ({"prior": {"class_prompt": ["", " "]}}, "prior.class_prompt: a phrase for the class"),
        ({"prior": {**CLASS, "kind": "distill", "class_dir": "."}}, "prior.class_dir: distill"),
        ({"training": {"norm_reg_weight": 1}}, "training.norm_reg_weight: is for learnt vectors"),
        ({"concepts": {"instance_prompt": "a logo"}}, "instance_prompt: does not name fbernuy"),
        (
            {"concepts": {"concept_strs": None, "instance_prompt": "a {}"}},
            "instance_prompt: no concept_strs for the {}",
        ),
        ({"prior": {**CLASS, "class_dir": "pictures"}}, "prior.class_dir: no such folder"),
        ({"prior": {"class_prompt": "a fbernuy logo"}}, "prior.class_prompt: names fbernuy"),
        ({"prior": {"class_prompt": ["a", "a fbernuy"]}}, "prior.class_prompt: names fbernuy"),
        (
            {"prior": {"class_prompt": ["a", "b"], "class_dir": "."}},
            "prior.class_prompt: one for the pictures of class_dir is wanted, found 2",
        ),
        (
            {"prior": {"class_prompt": ["a", "b"], "num_class_images": 1}},
            "prior.num_class_images: one for each of 2 prompts is wanted",
        ),
        ({"prior": {**CLASS, "cache_dir": ""}}, "prior.cache_dir: a folder is wanted"),
        ({"method": "lora"}, "^method: a mapping is wanted, found 'lora'$"),
        (
            {"training": {"early_stop": {"metric": "drift", "patience": 1}}},
            "drift is least where nothing was learnt",
        ),
        ({"concepts": {"templates": "a {}"}}, "instance_prompt: stands instead of templates"),
        (
            {
                "method": {"kind": "lora", "vectors_learning_rate": 1},
                "concepts": {"initializer_strs": None},
            },
            "concepts.initializer_strs: missing",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_does_not_go_together_is_refused(make, changes, problem):
    hparams = make(LORA)
    for section, values in changes.items():
        hparams[section] = (
            {**(hparams[section] or {}), **values}
            if section in ("training", "concepts")
            else values
        )
    with pytest.raises(ConfigError, match=problem):
        read(FinetuneConfig, hparams)
