"""Where words begin: files of other tools, a run's own checkpoint, another trial's."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detsd.checkpoints import Export
from detsd.concepts import Concept, ConceptError, read_concepts
from detsd.config import ConfigError, Word
from detsd.starts import starting_concepts
from tests.trials import changed, exports, last, rows, run

ROWS = torch.rand(3, 32, generator=torch.Generator().manual_seed(0))


def automatic(path: Path, **changes) -> Path:
    """Write a concept as AUTOMATIC1111's web UI does."""
    torch.save({"string_to_param": {"*": ROWS}, "name": "logo-v2", **changes}, path)
    return path


def begun(load, word: Word, own=None, lent=None, beside=(), family="sd1") -> Concept:
    (concept,) = starting_concepts([word], load(family), own, lent, beside)
    return concept


def test_a_word_begins_as_a_file_of_another_tool_has_it(tmp_path, load, caplog):
    caplog.set_level(logging.INFO)
    path = automatic(tmp_path / "logo-v2.pt")
    concept = begun(load, Word("det-logo", "", None, str(path)))
    assert (concept.name, concept.initializer) == ("det-logo", "")
    assert torch.equal(concept.vectors["clip_l"], ROWS)
    assert f"det-logo starts from {path} (3 vectors)" in caplog.text
    assert begun(load, Word("det-logo", "a logo", 3, str(path))).initializer == "a logo"


def test_a_file_of_several_is_asked_by_name(tmp_path, load):
    path = tmp_path / "two.pt"
    torch.save({"det-logo": ROWS, "cat": ROWS + 1}, path)
    assert torch.equal(begun(load, Word("cat", "", None, str(path))).vectors["clip_l"], ROWS + 1)
    with pytest.raises(ConceptError, match="two.pt: holds det-logo, cat; one called dog is wanted"):
        begun(load, Word("dog", "", None, str(path)))


def test_the_name_that_a_file_gives_matters_to_nobody(tmp_path, load):
    path = automatic(tmp_path / "a.pt", name="by/somebody")
    assert begun(load, Word("det-logo", "", None, str(path))).name == "det-logo"


def test_what_does_not_fit_is_said_before_anything_is_learnt(tmp_path, load, hparams):
    path = automatic(tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="num_vectors: 4 are wanted, .*a.pt has 3; leave out one"):
        begun(load, Word("det-logo", "", 4, str(path)))
    automatic(tmp_path / "long.pt", string_to_param={"*": torch.rand(65, 32)})
    with pytest.raises(ConceptError, match="has 65 vectors, which leave no room for a prompt"):
        begun(load, Word("det-logo", "", None, str(tmp_path / "long.pt")))
    with pytest.raises(ConceptError, match="no such file"):
        begun(load, Word("det-logo", "", None, str(tmp_path / "no.pt")))
    automatic(path, string_to_param={"*": torch.rand(3, 1024)})
    with pytest.raises(ConceptError, match=r"1024 \(clip_l, as of Stable Diffusion 2.x\).*another"):
        run(tmp_path / "run", changed(hparams, concepts__init_from=str(path)))


def test_other_starts_give_way_and_a_fork_does_not(tmp_path, load):
    path, word = automatic(tmp_path / "a.pt"), Word("det-logo", "brain logo", None, None)
    other = Concept("det-logo", {"clip_l": ROWS + 1})
    fork = Export((Concept("det-logo", {"clip_l": ROWS + 2}),))
    from_file = word._replace(source=str(path))
    beside = begun(load, from_file, beside=[other]).vectors["clip_l"]
    lent = begun(load, from_file, lent=fork, beside=[other]).vectors["clip_l"]
    assert torch.equal(beside, ROWS) and torch.equal(lent, ROWS + 2)
    path.unlink()
    found = begun(load, from_file._replace(num_vectors=3), lent=fork)
    assert torch.equal(found.vectors["clip_l"], ROWS + 2) and found.initializer == "brain logo"
    with pytest.raises(ConceptError, match="no such file"):
        begun(load, from_file._replace(num_vectors=2), lent=fork)


def test_a_model_beside_a_downloaded_word_is_saved_the_same_after_a_stop(tmp_path, hparams):
    path = automatic(tmp_path / "logo-v2.pt")
    prior = {"class_prompt": "a logo", "num_class_images": 2, "num_inference_steps": 2}
    hparams |= {
        "method": {"kind": "full", "vectors_learning_rate": 1e-3},
        "prior": {**prior, "cache_dir": str(tmp_path / "cache")},
    }
    hparams["concepts"] |= {"initializer_strs": None, "init_from": str(path)}
    straight = run(tmp_path / "straight", hparams)  # has tokenized the class's prompt before
    run(tmp_path / "stopped", hparams, stop_at=3)
    assert exports(run(tmp_path / "stopped", hparams)) == exports(straight)


@pytest.mark.parametrize("method", ["textual_inversion", "lora", "full"])
def test_a_run_learns_a_downloaded_word_further_and_goes_on_without_the_file(
    tmp_path, hparams, method
):
    path = automatic(tmp_path / "logo-v2.pt")
    rates = {} if method == "textual_inversion" else {"vectors_learning_rate": 1e-3}
    hparams = {**hparams, "method": {"kind": method, **rates}}
    hparams["concepts"] |= {"initializer_strs": None, "init_from": str(path)}
    straight = run(tmp_path / "straight", hparams)
    (learnt,) = read_concepts(last(straight))
    moved = (learnt.vectors["clip_l"] - ROWS).abs()
    assert learnt.num_vectors == 3 and 0 < moved.max() < 0.1
    run(tmp_path / "stopped", hparams, stop_at=3)
    path.unlink()
    assert exports(run(tmp_path / "stopped", hparams)) == exports(straight)


def test_a_checkpoint_may_be_a_start_and_a_phrase_beside_it(tmp_path, hparams):
    first = run(tmp_path / "first", hparams)
    shutil.copytree(last(first), tmp_path / "checkpoint")
    hparams["concepts"] |= {
        "concept_strs": ["det-logo", "cat"],
        "initializer_strs": ["brain logo", "a cat"],
        "init_from": [str(tmp_path / "checkpoint"), None],
        "learnable_properties": ["object"] * 2,
        "img_dirs": [hparams["concepts"]["img_dirs"]] * 2,
    }
    still = changed(hparams, training__learning_rate=0.0, training__num_sgd_steps=1)
    second = run(tmp_path / "second", still)
    assert torch.equal(rows(second)["det-logo"], rows(first)["det-logo"])
    assert len(rows(second, "cat")["cat"]) == 4  # the tiny tokenizer's pieces


def test_one_that_two_files_hold_is_read_for_both_encoders(tmp_path, load):
    for name, width in (("learned", 32), ("learned_2", 64)):
        save_file({"<logo>": torch.rand(2, width)}, tmp_path / f"{name}.safetensors")
    word = Word("det-logo", "", None, str(tmp_path / "learned.safetensors"))
    assert set(begun(load, word, family="sdxl").vectors) == {"clip_l", "clip_g"}
