"""What was learnt is found in files, folders and checkpoints, and each with its file."""

import pytest
import torch
from safetensors.torch import save_file

from detsd.adapters import FILE, Adapter, AdapterError, Layer, write_adapter
from detsd.checkpoints import CheckpointError
from detsd.concepts import EARLIER_FILE, Concept, ConceptError, encode_concepts, write_concepts
from detsd.learnt import read_learnt

UUID = "0f5bd5a2-7c1c-4a57-9d0e-2f6f3a1b6c55"
ADAPTER = Adapter({"unet.conv_in": Layer(torch.rand(2, 4, 3, 3), torch.rand(8, 2, 1, 1), 2.0)})


def concept(name, count=2):
    return Concept(name, {"clip_l": torch.rand(count, 8)})


def found(source, *arguments, **keys):
    """Return what was learnt as (file's name, concept's name or "adapter")."""
    return [
        (one.file.name, one.what.name if isinstance(one.what, Concept) else "adapter")
        for one in read_learnt(str(source), *arguments, **keys)
    ]


@pytest.fixture
def pivotal(tmp_path):
    """A checkpoint with an adapter and a word."""
    export = tmp_path / "step-000800" / "export"
    write_adapter(export / FILE, ADAPTER)
    write_concepts(export, [concept("det-logo")])
    return export.parent


def test_a_checkpoint_has_its_adapter_and_each_word_once(pivotal, monkeypatch):
    wanted = [(FILE, "adapter"), ("det-logo.safetensors", "det-logo")]
    monkeypatch.setattr("detsd.checkpoints.fetch_checkpoint", {UUID: pivotal}.get)
    for place in (pivotal, pivotal / "export", UUID):
        assert found(place) == wanted
    assert {one.source for one in read_learnt(UUID)} == {pivotal}
    assert found(pivotal / "export" / FILE) == wanted[:1]
    (pivotal / "export" / "det-logo.safetensors").unlink()
    assert found(pivotal) == [(FILE, "adapter"), (EARLIER_FILE, "det-logo")]


def test_beside_a_whole_model_only_our_own_file_is_a_words(pivotal):
    (pivotal / "export" / "unet").mkdir()
    assert found(pivotal) == [(EARLIER_FILE, "det-logo")]
    (pivotal / "export" / EARLIER_FILE).unlink()
    with pytest.raises(CheckpointError, match="step-000800: holds a whole model, and no word"):
        read_learnt(str(pivotal))


def test_a_folder_of_another_tool_has_files_of_all_kinds(tmp_path):
    write_adapter(tmp_path / "style.safetensors", ADAPTER, "kohya")
    (tmp_path / "cat.pt").write_bytes(encode_concepts([concept("cat")], "a1111"))
    (tmp_path / "dog.pt.optim").write_bytes(b"no concept's")
    (tmp_path / "cat.png").write_bytes(b"what it looks like")
    (tmp_path / ".cat.pt.part").write_bytes(b"half")
    torch.save({"<cat-toy>": torch.rand(8)}, tmp_path / "learned_embeds.bin")
    assert found(tmp_path) == [
        ("style.safetensors", "adapter"),
        ("cat.pt", "cat"),
        ("learned_embeds.bin", "<cat-toy>"),
    ]


def test_both_halves_of_a_word_are_one_word(tmp_path):
    save_file({"<t>": torch.rand(2, 768)}, tmp_path / "learned_embeds.safetensors")
    save_file({"<t>": torch.rand(2, 1280)}, tmp_path / "learned_embeds_2.safetensors")
    (one,) = read_learnt(str(tmp_path))
    assert one.file.name == "learned_embeds.safetensors"
    assert one.what.vectors.keys() == {"clip_l", "clip_g"}
    write_concepts(tmp_path / "own", [one.what])
    second = tmp_path / "own" / "<t>_2.safetensors"
    save_file({"<t>": torch.rand(2, 1280)}, second)  # half of another word, which is not there
    for _ in range(2):
        with pytest.raises(ConceptError, match="<t>_2.safetensors: "):
            read_learnt(str(second.parent))
        second.write_bytes(b"damaged")
    (tmp_path / "learned_embeds.safetensors").unlink()
    with pytest.raises(ConceptError, match="learned_embeds_2.safetensors: .* second text encoder"):
        read_learnt(str(tmp_path))


def test_a_concept_is_called_as_asked(pivotal, tmp_path):
    assert found(pivotal, "mine") == [(FILE, "adapter"), ("det-logo.safetensors", "mine")]
    save_file({"a/b": torch.rand(2, 8)}, tmp_path / "odd.safetensors")  # names no file
    assert found(tmp_path / "odd.safetensors", "mine") == [("odd.safetensors", "mine")]


def test_what_cannot_be_read_ends_it_or_is_told_of(pivotal):
    (pivotal / "export" / "bad.pt").write_bytes(b"\x80\x02bad")
    with pytest.raises(ConceptError, match="bad.pt: "):
        read_learnt(str(pivotal))
    told = []
    assert [name for _, name in found(pivotal, skip=told.append)] == ["adapter", "det-logo"]
    assert [str(error).partition(": ")[0] for error in told] == [str(pivotal / "export" / "bad.pt")]


def test_a_place_with_nothing_learnt_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no concept and no adapter"):
        read_learnt(str(tmp_path))
    with pytest.raises(ConceptError, match="no such file or folder"):
        read_learnt(str(tmp_path / "none"))
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(AdapterError, match=FILE):
        read_learnt(str(tmp_path))
