"""A folder holds the same for everybody who reads it, whatever else lies there."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detsd.__main__ import main
from detsd.adapters import FILE, Adapter, Layer, write_adapter
from detsd.checkpoints import CheckpointError, read_export
from detsd.concepts import (
    EARLIER_FILE,
    Concept,
    ConceptError,
    encode_concepts,
    read_concepts,
    write_concepts,
)
from detsd.generate import find_concepts
from detsd.learnt import read_learnt
from detsd.mixing import find_adapters

ROWS = torch.rand(2, 768, generator=torch.Generator().manual_seed(0))
ADAPTER = Adapter({"unet.conv_in": Layer(torch.rand(2, 4, 3, 3), torch.rand(8, 2, 1, 1), 2.0)})


def concept(name: str, rows: torch.Tensor = ROWS) -> Concept:
    return Concept(name, {"clip_l": rows})


def words_in(folder: Path) -> list[str]:
    """Return the names of the words of a folder, which are the same for all who read it."""
    learnt = [one.what for one in read_learnt(str(folder))]
    export = read_export(folder)
    names = sorted(one.name for one in read_concepts(folder))
    for found in (export.concepts, [one for one in learnt if isinstance(one, Concept)]):
        assert sorted(one.name for one in found) == names
    assert [one.name for one in find_concepts(folder)] == [one.name for one in export.concepts]
    adapters = [one for one in learnt if isinstance(one, Adapter)]
    assert len(adapters) == (1 if export.adapter else 0)
    return names


def test_words_of_all_kinds_of_files_are_found_together(tmp_path: Path) -> None:
    for name in ("cat.safetensors", "UP.SAFETENSORS"):
        save_file({f"<{name[:3]}>": ROWS.clone()}, tmp_path / name)
    for name in ("dog.pt", "k.ckpt", "old.bin", "p.pth", "LOUD.PT"):
        torch.save({f"<{name[:3]}>": ROWS}, tmp_path / name)
    for name in ("<cat>.png", "notes.txt", "._cat.safetensors", ".dog.pt.part"):
        (tmp_path / name).write_bytes(b"no concept's")
    (tmp_path / "sub.safetensors").mkdir()
    assert words_in(tmp_path) == [*("<LOU>", "<UP.>", "<cat>", "<dog>", "<k.c>", "<old>", "<p.p>")]


def test_what_a_trainer_keeps_beside_its_words_is_passed_over(tmp_path: Path, caplog) -> None:
    state = {"state": {0: {"exp_avg": ROWS}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    for folder in (earlier, later):
        folder.mkdir()
        torch.save(state, folder / "optimizer_state_dict.pt")
    (earlier / EARLIER_FILE).write_bytes(encode_concepts([concept("old")], "determined"))
    assert words_in(earlier) == ["old"]
    assert "optimizer_state_dict.pt: is left out, no word can be read from it" in caplog.text
    save_file({"<cat>": ROWS}, later / "learned_embeds.safetensors")
    torch.save({"state_dict": {"model.a.weight": ROWS}}, later / "x.vae.pt")
    assert words_in(later) == ["<cat>"]
    (later / "learned_embeds.safetensors").unlink()
    with pytest.raises(ConceptError, match="optimizer_state_dict.pt: holds param_groups, state"):
        read_concepts(later)


def test_a_folder_of_cogs_is_one_to_all(tmp_path: Path) -> None:
    more = torch.rand(2, 1280)
    save_file({"text_encoders_0": ROWS, "text_encoders_1": more}, tmp_path / "embeddings.pti")
    (tmp_path / "special_params.json").write_text(json.dumps({"TOK": "<s0><s1>"}))
    assert words_in(tmp_path) == ["TOK"]


def test_of_a_words_steps_and_twins_one_is_taken(tmp_path: Path) -> None:
    for end in ("", "-steps-500", "-steps-1000"):
        save_file({"<cat>": ROWS.clone()}, tmp_path / f"learned_embeds{end}.safetensors")
    torch.save({"<cat>": ROWS + 1}, tmp_path / "learned_embeds.bin")
    assert words_in(tmp_path) == ["<cat>"]
    (one,) = read_learnt(str(tmp_path))
    assert one.file.name == "learned_embeds.safetensors"


def test_a_word_that_is_called_as_if_it_were_a_step_is_another(tmp_path: Path) -> None:
    write_concepts(tmp_path, [concept("logo"), concept("logo-steps-5"), concept("a-steps-5")])
    assert words_in(tmp_path) == ["a-steps-5", "logo", "logo-steps-5"]


def test_our_file_of_all_words_is_for_where_there_is_no_other(tmp_path: Path) -> None:
    write_concepts(tmp_path, [concept("a"), concept("b")])
    assert words_in(tmp_path) == ["a", "b"]
    for name in "ab":
        (tmp_path / f"{name}.safetensors").unlink()
    assert words_in(tmp_path) == ["a", "b"]
    write_adapter(tmp_path / FILE, ADAPTER)
    assert words_in(tmp_path) == ["a", "b"]


def test_what_we_convert_a_checkpoint_to_is_read_as_the_checkpoint(tmp_path: Path) -> None:
    write_adapter(tmp_path / "run" / "export" / FILE, ADAPTER)
    write_concepts(tmp_path / "run" / "export", [concept("det-logo")])
    for layout in ("kohya", "diffusers"):
        out = tmp_path / layout
        assert main(["convert", str(tmp_path / "run"), str(out), "--format", layout]) == 0
        assert words_in(out) == ["det-logo"]
        assert read_export(out).adapter.layers.keys() == ADAPTER.layers.keys()
        (loaded,) = find_adapters(out)
        assert [one.name for one in loaded.concepts] == ["det-logo"]


@pytest.mark.parametrize("name", ["lora", "lora.bin", "lora.SAFETENSORS", "lora.safetensors"])
def test_an_adapter_is_known_by_what_is_in_it(tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path / name, ADAPTER, "kohya")
    assert read_export(tmp_path / name).adapter.layers.keys() == ADAPTER.layers.keys()
    (one,) = read_learnt(str(tmp_path / name))
    assert isinstance(one.what, Adapter)
    assert main(["convert", str(tmp_path / name), str(tmp_path / "out"), "--format", "kohya"]) == 0
    assert (tmp_path / "out" / "lora.safetensors").is_file()


def test_of_several_adapters_one_is_to_be_named(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        write_adapter(tmp_path / name, ADAPTER, "kohya")
    save_file({"cat": ROWS.clone()}, tmp_path / "cat.safetensors")
    with pytest.raises(CheckpointError, match="holds a.safetensors, b.safetensors; an adapter is"):
        read_export(tmp_path)
    assert [one.name for one in read_concepts(tmp_path)] == ["cat"]
    assert len(read_learnt(str(tmp_path))) == 3


def test_words_do_not_wait_for_an_adapter_that_is_damaged(tmp_path: Path) -> None:
    write_concepts(tmp_path, [concept("cat")])
    (tmp_path / FILE).write_bytes(b"damaged")
    assert [one.name for one in read_concepts(tmp_path)] == ["cat"]
    with pytest.raises(ValueError, match=FILE):
        read_export(tmp_path)


def test_words_in_an_adapters_file_are_the_folders(tmp_path: Path) -> None:
    write_adapter(tmp_path / "plain.safetensors", ADAPTER, "kohya")
    layers = load_file(tmp_path / "plain.safetensors")
    (tmp_path / "plain.safetensors").unlink()
    save_file({**layers, "bundle_emb.cat.clip_l": ROWS}, tmp_path / "style.safetensors")
    assert words_in(tmp_path) == ["cat"]
    assert [one.name for one in read_concepts(tmp_path, "mine")] == ["mine"]
    save_file({"dog": ROWS.clone()}, tmp_path / "dog.safetensors")
    assert words_in(tmp_path) == ["cat", "dog"]
    assert [one.name for one in read_concepts(tmp_path, "mine")] == ["cat", "dog"]


def test_a_models_layers_are_left_out_and_it_is_said(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    save_file({"conv_in.weight": ROWS.clone(), "a": ROWS.clone()}, tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match="holds no concept and no adapter"):
        read_export(tmp_path)
    assert "unet.safetensors: is left out, it holds a whole model's layers" in caplog.text
    save_file({"cat": ROWS.clone()}, tmp_path / "cat.safetensors")
    assert words_in(tmp_path) == ["cat"]


def test_a_whole_models_words_are_those_of_our_file(tmp_path: Path) -> None:
    (tmp_path / "export" / "unet").mkdir(parents=True)
    write_concepts(tmp_path / "export", [concept("cat")])
    save_file({"dog": ROWS.clone()}, tmp_path / "export" / "dog.safetensors")
    for folder in (tmp_path, tmp_path / "export"):
        assert words_in(folder) == ["cat"]
    shutil.rmtree(tmp_path / "export" / "unet")
    assert words_in(tmp_path) == ["cat", "dog"]
    assert (tmp_path / "export" / EARLIER_FILE).is_file()


def test_half_of_another_word_is_not_taken_for_a_word_of_both_encoders(tmp_path: Path) -> None:
    both = {"clip_l": ROWS, "clip_g": torch.rand(2, 1280)}
    (tmp_path / "a.safetensors").write_bytes(encode_concepts([Concept("a", both)]))
    save_file({"a": torch.rand(2, 1280)}, tmp_path / "a_2.safetensors")
    (found,) = read_concepts(tmp_path / "a.safetensors")
    assert torch.equal(found.vectors["clip_g"], both["clip_g"])
