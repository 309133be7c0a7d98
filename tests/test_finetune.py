"""The loop: exact after an interruption, honest at the end, and what each option changes."""

import json
import logging
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from detsd.concepts import read_concepts
from detsd.meter import NonFiniteError
from detsd.resume import ResumeError
from tests.conftest import read_lines
from tests.trials import changed, exports, last, rows, run

RICH = {
    "concepts__flip_p": 0.5,
    "concepts__crop_scale": [0.7, 1.0],
    "concepts__crop_variants": 3,
    "training__lr_scheduler": "cosine",
    "training__warmup_steps": 2,
    "training__max_grad_norm": 1.0,
    "training__snr_gamma": 5.0,
    "training__norm_reg_weight": 0.01,
    "training__hidden_reg_weight": 0.01,
}


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_a_stopped_run_ends_where_a_straight_one_does(tmp_path, models, hparams, family, stop_at):
    rich = changed(hparams, **RICH, model__pretrained_model_name_or_path=str(models[family]))
    straight = exports(run(tmp_path / "straight", rich))
    run(tmp_path / "stopped", rich, stop_at=stop_at)
    assert last(tmp_path / "stopped").name == f"step-{stop_at:06d}"
    assert exports(run(tmp_path / "stopped", rich)) == straight


def test_a_start_from_a_run_of_other_words_is_a_warning(tmp_path, hparams, caplog):
    first = run(tmp_path / "first", changed(hparams, training__num_sgd_steps=2))
    other = changed(hparams, concepts__concept_strs="other", training__num_sgd_steps=2)
    second = run(tmp_path / "second", other, warm_start=last(first))
    assert "the checkpoint has det-logo: each that is learnt here starts anew" in caplog.text
    assert rows(second, "other").keys() == {"other"}


def test_metrics_and_samples_of_a_resumed_run_are_those_of_a_straight_one(tmp_path, hparams):
    sampled = changed(
        hparams,
        inference__generate_training_images=True,
        inference__inference_prompts=["a det-logo"],
        inference__num_inference_steps=2,
    )
    run(tmp_path / "straight", sampled)
    run(tmp_path / "resumed", changed(sampled, training__num_sgd_steps=2))
    # What a killed attempt left behind past its checkpoint is taken back.
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "group": "training", "metrics": {"loss": 9}}\n{"step": 4, "gro')
    stale = tmp_path / "resumed" / "samples" / "step-000004"
    stale.mkdir()
    (stale / "00-a-det-logo.png").write_bytes(b"stale")
    run(tmp_path / "resumed", sampled)
    for name in ("straight", "resumed"):
        lines = read_lines(tmp_path / name / "metrics.jsonl")
        assert [(line["step"], line["group"]) for line in lines] == [
            (0, "validation"),
            *[(step, group) for step in (2, 4, 6) for group in ("training", "validation")],
        ]
    pictures = [
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.png")}
        for name in ("straight", "resumed")
    ]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 4


def test_samples_by_auto_are_those_of_its_solver_in_twenty_steps(tmp_path, hparams, caplog):
    caplog.set_level("INFO")
    sampled = changed(
        hparams,
        training__num_sgd_steps=1,
        inference__generate_training_images=True,
        inference__inference_prompts=["a det-logo"],
    )
    named = {"inference__inference_scheduler_name": "dpm++-2m-karras"}
    ways = {
        "auto": {"inference__inference_scheduler_name": "auto"},
        "named": {**named, "inference__num_inference_steps": 20},
        "fewer": {**named, "inference__num_inference_steps": 19},
    }
    drawn = {}
    for name, way in ways.items():
        folder = run(tmp_path / name, changed(sampled, **way))
        if name == "auto":
            assert "samples are drawn by dpm++-2m-karras in 20 steps" in caplog.text
        drawn[name] = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
        assert len(drawn[name]) == 2  # before the first step, and after the last
    assert drawn["auto"] == drawn["named"] != drawn["fewer"]


def test_samples_cut_off_by_a_crash_are_drawn_after_it(tmp_path, hparams):
    sampled = changed(
        hparams,
        inference__generate_training_images=True,
        inference__inference_prompts=["a det-logo", "a wall"],
        inference__num_inference_steps=2,
    )
    run(tmp_path, sampled)
    (picture,) = (tmp_path / "samples" / "step-000006").glob("01-*.png")
    content = picture.read_bytes()
    picture.unlink()
    run(tmp_path, sampled)
    assert picture.read_bytes() == content


@pytest.mark.parametrize(("freq", "stop_at"), [(2, 0), (3, 3)])
def test_a_stop_cuts_samples_short_and_loses_nothing(tmp_path, hparams, monkeypatch, freq, stop_at):
    sampled = changed(
        hparams,
        inference__generate_training_images=True,
        inference__inference_prompts=["a det-logo", "a wall"],
        inference__num_inference_steps=2,
        inference__sample_freq=freq,
    )
    straight = run(tmp_path / "straight", sampled)
    from detsd.foldertrial import FolderTrial

    shown = FolderTrial.show

    def stop_after_one(self, name, image, step):
        shown(self, name, image, step)
        if step == stop_at:
            self._stop()

    monkeypatch.setattr(FolderTrial, "show", stop_after_one)
    stopped = run(tmp_path / "stopped", sampled)
    assert len(list((stopped / "samples" / f"step-{stop_at:06d}").iterdir())) == 1
    assert stop_at == 0 or last(stopped).name == f"step-{stop_at:06d}"
    monkeypatch.setattr(FolderTrial, "show", shown)
    run(stopped, sampled)
    assert exports(stopped) == exports(straight)
    pictures = [{p.name for p in folder.rglob("step-*/*.png")} for folder in (straight, stopped)]
    assert pictures[0] == pictures[1]
    assert len(list(stopped.rglob("*.png"))) == len(list(straight.rglob("*.png")))


def test_a_stop_is_heard_between_the_batches_of_a_sheet(tmp_path, hparams, monkeypatch):
    sampled = changed(
        hparams,
        inference__generate_training_images=True,
        inference__inference_prompts=["a det-logo"],
        inference__num_inference_steps=2,
        inference__num_pipeline_calls=3,
    )
    from detsd import samples

    drawn, draw = [], samples.generate

    def stop_after_one(*arguments):
        drawn.append(arguments)
        signal.raise_signal(signal.SIGTERM)
        return draw(*arguments)

    monkeypatch.setattr(samples, "generate", stop_after_one)
    stopped = run(tmp_path / "stopped", sampled)
    assert len(drawn) == 1 and not list(stopped.rglob("*.png"))


def test_a_seed_decides_everything(tmp_path, hparams):
    first, second = (
        exports(run(tmp_path / str(seed), changed(hparams, training__train_seed=seed)))
        for seed in (1, 2)
    )
    again = exports(run(tmp_path / "again", changed(hparams, training__train_seed=1)))
    assert first == again
    assert first != second


def test_micro_batches_change_memory_and_not_results(tmp_path, hparams):
    longer = changed(hparams, training__num_sgd_steps=20, training__checkpoint_freq=20)
    whole = rows(run(tmp_path / "whole", longer))["det-logo"]
    for size in (1, 2, 3):
        part = run(tmp_path / str(size), changed(longer, training__micro_batch_size=size))
        assert torch.allclose(rows(part)["det-logo"], whole, atol=1e-5)


def test_out_of_memory_is_met_with_smaller_pieces(tmp_path, hparams, monkeypatch, caplog):
    from detsd.methods import Method

    caplog.set_level(logging.INFO)
    whole = rows(run(tmp_path / "whole", hparams))["det-logo"]
    losses = Method.losses

    def too_small(self, model, batch):
        if len(batch.captions) > 1:
            raise torch.OutOfMemoryError
        return losses(self, model, batch)

    monkeypatch.setattr(Method, "losses", too_small)
    part = rows(run(tmp_path / "part", hparams))["det-logo"]
    assert torch.allclose(part, whole, atol=1e-6)
    assert "micro-batches of 1" in caplog.text


def test_another_trials_checkpoint_is_a_warm_start(tmp_path, hparams, caplog):
    caplog.set_level(logging.INFO)
    first = run(tmp_path / "first", hparams)
    slower = changed(hparams, training__learning_rate=0.0, training__num_sgd_steps=2)
    second = run(tmp_path / "second", slower, warm_start=str(last(first)))
    assert last(second).name == "step-000002"  # from step 0, with this trial's learning rate
    assert torch.equal(rows(second)["det-logo"], rows(first)["det-logo"])
    assert "det-logo starts from the checkpoint" in caplog.text


def test_the_earlier_examples_checkpoint_is_a_warm_start(tmp_path, hparams):
    first = run(tmp_path / "first", hparams)
    old = tmp_path / "old"
    old.mkdir()
    name = "learned_embeddings_dict.pt"
    (old / name).write_bytes((last(first) / "export" / name).read_bytes())
    still = changed(hparams, training__learning_rate=0.0)
    second = run(tmp_path / "second", still, warm_start=str(old))
    assert torch.equal(rows(second)["det-logo"], rows(first)["det-logo"])


def test_more_steps_go_on_and_no_more_say_so(tmp_path, hparams, caplog):
    caplog.set_level(logging.INFO)
    run(tmp_path / "a", changed(hparams, training__num_sgd_steps=4))
    run(tmp_path / "a", hparams)
    assert exports(tmp_path / "a") == exports(run(tmp_path / "b", hparams))
    before = sorted((tmp_path / "a").rglob("*"))
    caplog.clear()
    run(tmp_path / "a", hparams)
    assert "6 of 6 steps are done" in caplog.text
    assert "nothing is left to do" in caplog.text
    assert sorted((tmp_path / "a").rglob("*")) == before


@pytest.mark.parametrize(("written", "length", "steps"), [(6, 2, 2), (None, 3, 3), (4, 9, 4)])
def test_a_searchers_length_caps_or_stands_in_for_the_steps(
    tmp_path, hparams, written, length, steps
):
    hparams = changed(hparams, training__num_sgd_steps=written)
    if written is None:
        del hparams["training"]["num_sgd_steps"]
    run(tmp_path, hparams, searcher={"max_length": {"batches": length}})
    assert last(tmp_path).name == f"step-{steps:06d}"


def test_a_changed_effective_batch_or_learning_rate_is_taken_and_noted(tmp_path, hparams, caplog):
    run(tmp_path, changed(hparams, training__num_sgd_steps=2))
    run(tmp_path, changed(hparams, training__train_batch_size=3, training__learning_rate=1e-4))
    assert "effective batch was 4 at the checkpoint and is 12" in caplog.text
    rates = {
        line["step"]: line["metrics"]["learning_rate"]
        for line in read_lines(tmp_path / "metrics.jsonl")
        if line["group"] == "training"
    }
    assert rates == pytest.approx({2: 5e-4 * 4, 4: 1e-4 * 12, 6: 1e-4 * 12})


def test_another_base_model_is_noted(tmp_path, models, hparams, caplog):
    run(tmp_path, changed(hparams, training__num_sgd_steps=2))
    run(tmp_path, changed(hparams, model__pretrained_model_name_or_path=str(models["sd2"])))
    assert "the base model was" in caplog.text
    assert "det-logo/clip_l is new, or has another shape" in caplog.text


def test_a_resumed_trial_takes_a_new_concept_and_another_optimizer(tmp_path, hparams, caplog):
    run(tmp_path, changed(hparams, training__num_sgd_steps=2))
    names = {"concept_strs": ["det-logo", "cat-toy"], "initializer_strs": ["brain logo", "paper"]}
    more = changed(hparams, training__optimizer_name="sgd")
    more["concepts"] |= names | {
        "learnable_properties": ["object"] * 2,
        "img_dirs": [hparams["concepts"]["img_dirs"]] * 2,
        "num_vectors": [len(rows(tmp_path)["det-logo"]), 1],
    }
    run(tmp_path, more)
    assert "cat-toy/clip_l is new" in caplog.text
    assert "the optimizer is another one" in caplog.text
    assert rows(tmp_path, "cat-toy")["cat-toy"].shape == (1, 32)


def test_two_concepts_export_their_own_rows(tmp_path, hparams):
    hparams["concepts"] |= {
        "concept_strs": ["det-logo", "det-logo-demo"],
        "initializer_strs": ["brain logo", "sharp lines, art"],
        "learnable_properties": ["object", "style"],
        "img_dirs": [hparams["concepts"]["img_dirs"]] * 2,
    }
    run(tmp_path, hparams)
    sizes = {concept.name: concept.num_vectors for concept in read_concepts(last(tmp_path))}
    assert sizes == {"det-logo": 3, "det-logo-demo": 4}
    earlier = read_concepts(last(tmp_path) / "export" / "learned_embeddings_dict.pt")
    assert [concept.num_vectors for concept in earlier] == [3, 4]
    assert torch.equal(
        earlier[1].vectors["clip_l"], rows(tmp_path, "det-logo-demo")["det-logo-demo"]
    )


def test_a_checkpoint_says_what_it_is(tmp_path, hparams):
    run(tmp_path, hparams)
    metadata = json.loads((last(tmp_path) / "metadata.json").read_text())
    assert metadata["steps_completed"] == 6
    assert metadata["trial_id"] == json.loads((tmp_path / "run.json").read_text())["trial_id"]
    assert {"version", "base_model"} <= metadata.keys()
    (concept,) = read_concepts(last(tmp_path))
    assert concept.initializer == "brain logo, sharp lines"
    assert concept.about["steps"] == 6


def test_a_loss_that_is_no_number_ends_the_run_and_the_last_checkpoint_stands(tmp_path, hparams):
    run(tmp_path, changed(hparams, training__num_sgd_steps=2))
    with pytest.raises(NonFiniteError, match=r"step [34]: .* is (nan|inf).*learning_rate"):
        run(
            tmp_path,
            changed(
                hparams,
                training__learning_rate=1e6,
                training__scale_lr=True,
                training__norm_reg_weight=1e20,
            ),
        )
    assert last(tmp_path).name == "step-000002"
    assert torch.isfinite(rows(tmp_path)["det-logo"]).all()


def test_a_damaged_or_foreign_state_is_refused_in_a_line(tmp_path, hparams):
    run(tmp_path, changed(hparams, training__num_sgd_steps=2))
    state = last(tmp_path) / "resume" / "state.pt"
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    with pytest.raises(ResumeError, match="state.pt cannot be read"):
        run(tmp_path, hparams)
    torch.save({"format": 99}, state)
    with pytest.raises(ResumeError, match="format 99.*--from"):
        run(tmp_path, hparams)


def test_the_end_says_what_was_learnt(tmp_path, hparams, caplog):
    caplog.set_level(logging.INFO)
    run(tmp_path / "moved", hparams)
    assert "the concepts moved by" in caplog.text
    assert "the validation loss went from" in caplog.text
    assert "hardly" not in caplog.text
    run(tmp_path / "still", changed(hparams, training__learning_rate=0.0))
    assert "that is hardly at all" in caplog.text
    assert "it did not fall" in caplog.text


def test_a_constant_picture_is_learnt(tmp_path, models, hparams):
    folder = tmp_path / "red"
    folder.mkdir()
    Image.fromarray(np.full((16, 16, 3), (250, 20, 20), np.uint8)).save(folder / "red.png")
    longer = changed(hparams, training__num_sgd_steps=60, training__checkpoint_freq=60)
    longer["concepts"]["img_dirs"] = str(folder)
    run(tmp_path / "run", longer)
    losses = [
        line["metrics"]["loss"]
        for line in read_lines(tmp_path / "run" / "metrics.jsonl")
        if line["group"] == "validation"
    ]
    assert losses[-1] < losses[0]


def test_each_regulariser_is_reported_apart(tmp_path, hparams):
    run(tmp_path, changed(hparams, training__norm_reg_weight=0.1, training__hidden_reg_weight=0.1))
    for line in read_lines(tmp_path / "metrics.jsonl"):
        if line["group"] == "training":
            terms = line["metrics"]
            parts = [terms[f"{name}_loss"] for name in ("noise_pred", "norm_reg", "hidden_reg")]
            assert terms["loss"] == pytest.approx(sum(parts), rel=1e-5)
            assert all(part > 0 for part in parts)


def test_gradient_checkpointing_and_bf16_train(tmp_path, hparams):
    exact = rows(run(tmp_path / "exact", hparams))["det-logo"]
    same = changed(hparams, training__gradient_checkpointing=True)
    assert torch.allclose(rows(run(tmp_path / "same", same))["det-logo"], exact, atol=1e-6)
    rough = rows(run(tmp_path / "rough", changed(hparams, training__precision="bf16")))
    assert rough["det-logo"].dtype == torch.float32
    assert not torch.equal(rough["det-logo"], exact)
