"""Concept files: what is written is read, and nothing else is believed or executed."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from detsd.concepts import EARLIER_FILE, Concept, ConceptError, read_concepts, write_concepts

NAMES = ["det-logo", "<det-logo>", "two words", "c++ (new) [x]", "naïve-脑"]
SDXL = {"clip_l": torch.rand(3, 8), "clip_g": torch.rand(3, 12)}


def concept(name: str = "det-logo", vectors: Any = None, **about: Any) -> Concept:
    return Concept(name, vectors or {"clip_l": torch.rand(3, 8)}, "brain logo", about)


def assert_same(found: Concept, wanted: Concept) -> None:
    assert (found.name, found.initializer) == (wanted.name, wanted.initializer)
    assert found.vectors.keys() == wanted.vectors.keys()
    assert all(torch.equal(found.vectors[key], wanted.vectors[key]) for key in wanted.vectors)


@pytest.mark.parametrize("vectors", [None, SDXL], ids=["one encoder", "two encoders"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_again(tmp_path: Path, name: str, vectors: Any) -> None:
    wanted = concept(name, vectors, steps=500, base_model="a/b")
    write_concepts(tmp_path, [wanted])
    (found,) = read_concepts(tmp_path / f"{name}.safetensors")
    assert_same(found, wanted)
    assert found.about["steps"] == 500
    assert found.num_vectors == 3
    (earlier,) = read_concepts(tmp_path / EARLIER_FILE)
    assert_same(earlier, wanted)


def test_each_file_holds_its_own_rows_and_one_metadata_key(tmp_path: Path) -> None:
    write_concepts(tmp_path, [concept("det-logo", steps=5), concept("det-logo-demo")])
    with safe_open(tmp_path / "det-logo.safetensors", framework="pt") as file:
        assert list(file.keys()) == ["det-logo"]  # diffusers takes the key for the token
        metadata = file.metadata()
    about = {"initializer": "brain logo", "name": "det-logo", "num_vectors": 3, "steps": 5}
    assert metadata == {"detsd": json.dumps(about, sort_keys=True)}


def test_a_file_for_two_encoders_has_a_tensor_for_each(tmp_path: Path) -> None:
    write_concepts(tmp_path, [concept(vectors=SDXL)])
    with safe_open(tmp_path / "det-logo.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["clip_g", "clip_l"]


WRITE = """
import sys, torch
from pathlib import Path
from detsd.concepts import Concept, write_concepts
v = {"clip_l": torch.ones(2, 8), "clip_g": torch.ones(2, 4)}
about = {"steps": 5, "base_model": "a/b", "version": "1", "more": [1, 2]}
write_concepts(Path(sys.argv[1]), [Concept("a-b", v, "x", about), Concept("c", v, "y", about)])
"""


def test_a_colleague_may_read_what_is_written(tmp_path: Path) -> None:
    write_concepts(tmp_path, [concept()])
    (tmp_path / "plain.txt").write_text("what the umask allows")
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_the_bytes_are_the_same_in_every_process(tmp_path: Path) -> None:
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / f"run-{seed}"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", WRITE, str(folder)]
        subprocess.run(command, env=environment, check=True, timeout=60)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"a-b.safetensors", "c.safetensors", EARLIER_FILE}


def test_the_earlier_examples_file_is_read_and_written(tmp_path: Path) -> None:
    rows = torch.rand(11, 768)
    entry = {"initializer_strs": "brain logo", "learned_embeddings": rows}
    torch.save({"det-logo-demo": entry, "other": entry}, tmp_path / "any name.pt")
    found = read_concepts(tmp_path / "any name.pt")
    for name, read in zip(("det-logo-demo", "other"), found, strict=True):
        assert_same(read, Concept(name, {"clip_l": rows}, "brain logo"))
    write_concepts(tmp_path, found)
    again = torch.load(tmp_path / EARLIER_FILE, weights_only=True)
    assert list(again) == ["det-logo-demo", "other"]
    assert again["other"]["initializer_strs"] == "brain logo"
    assert torch.equal(again["other"]["learned_embeddings"], rows)


def test_an_earlier_file_of_an_older_torch_is_read(tmp_path: Path) -> None:
    entries = {"old": {"initializer_strs": "x", "learned_embeddings": torch.rand(2, 8)}}
    torch.save(entries, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert [concept.name for concept in read_concepts(tmp_path / "old.pt")] == ["old"]


def test_another_tools_file_is_called_as_asked_or_by_its_token(tmp_path: Path) -> None:
    save_file({"<cat-toy>": torch.rand(2, 8).half()}, tmp_path / "a.safetensors")
    save_file(SDXL, tmp_path / "file name.safetensors")
    (token,) = read_concepts(tmp_path / "a.safetensors")
    assert (token.name, token.initializer) == ("<cat-toy>", "")
    assert token.vectors["clip_l"].dtype == torch.float32
    assert read_concepts(tmp_path / "a.safetensors", name="mine")[0].name == "mine"
    assert read_concepts(tmp_path / "file name.safetensors")[0].name == "file name"
    assert read_concepts(tmp_path / "file name.safetensors", name="mine")[0].name == "mine"


@pytest.mark.parametrize("vectors", [None, SDXL], ids=["one encoder", "two encoders"])
def test_our_own_file_is_called_as_asked(tmp_path: Path, vectors: Any) -> None:
    write_concepts(tmp_path, [concept(vectors=vectors)])
    assert read_concepts(tmp_path / "det-logo.safetensors", name="mine")[0].name == "mine"


def test_a_checkpoint_is_read_from_its_export(tmp_path: Path) -> None:
    wanted = [concept("a-b"), concept("c d")]
    write_concepts(tmp_path / "export", wanted)
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "state.pt").write_bytes(b"not opened")
    for folder in (tmp_path, tmp_path / "export"):
        for found, concept_written in zip(read_concepts(folder), wanted, strict=True):
            assert_same(found, concept_written)


def test_an_earlier_checkpoint_is_read(tmp_path: Path) -> None:
    write_concepts(tmp_path / "new", [concept("a-b"), concept("c d")])
    shutil.copy(tmp_path / "new" / EARLIER_FILE, tmp_path)
    assert [found.name for found in read_concepts(tmp_path)] == ["a-b", "c d"]


class Malicious:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"mkdir '{self.target}'",)


@pytest.mark.parametrize("make", ["zip", "old torch", "pickle 2", "pickle 4", "in an entry"])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, make: str) -> None:
    path, trap = tmp_path / EARLIER_FILE, Malicious(tmp_path / "executed")
    if make.startswith("pickle"):
        path.write_bytes(pickle.dumps(trap, protocol=int(make[-1])))
    elif make == "in an entry":
        entry = {"initializer_strs": trap, "learned_embeddings": torch.rand(2, 8)}
        torch.save({"a": entry}, path)
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=make == "zip")
    for where in (path, tmp_path):
        with pytest.raises(ConceptError, match=EARLIER_FILE):
            read_concepts(where)
    assert not trap.target.exists()


@pytest.mark.parametrize(
    "content", [b"", b"x", b"text " * 50, b"PK\x03\x04 no", b"\x80\x02.", b"\x80"]
)
def test_garbage_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConceptError, match="bad.safetensors"):
        read_concepts(path)


@pytest.mark.parametrize("name", ["det-logo.safetensors", EARLIER_FILE])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, name: str, share: float) -> None:
    write_concepts(tmp_path, [concept(vectors={"clip_l": torch.rand(64, 32)})])
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ConceptError, match=name):
        read_concepts(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": torch.rand(2, 3, 4)},
        {"a": torch.tensor(1.0)},
        {"a": torch.rand(0, 8)},
        {"a": torch.rand(2, 8), "emb_params": torch.rand(2, 8)},
        {"clip_l": torch.rand(2, 8), "clip_g": torch.rand(3, 8)},
        {"clip_l": torch.rand(2, 8), "other": torch.rand(2, 8)},
        {"position_ids": torch.arange(77)[None]},
        {"a": torch.rand(1001, 8)},
        {"a" * 300: torch.rand(1, 8)},
        {"a\nb": torch.rand(1, 8)},
        {},
    ],
    ids=lambda tensors: str({key: list(value.shape) for key, value in tensors.items()}),
)
def test_tensors_that_are_no_concept_are_refused(tmp_path: Path, tensors: Any) -> None:
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ConceptError, match="odd.safetensors"):
        read_concepts(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("text", ["{broken", "[]", '"text"'])
def test_damaged_metadata_is_refused(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.rand(2, 8)}, tmp_path / "odd.safetensors", metadata={"detsd": text})
    with pytest.raises(ConceptError, match="odd.safetensors"):
        read_concepts(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    "entries",
    [
        [1, 2],
        {"a": {"initializer_strs": "x"}},
        {"a": {"initializer_strs": "x", "learned_embeddings": torch.rand(2, 2, 8)}},
        {"a": {"initializer_strs": "x", "learned_embeddings": {}}},
        {"a": {"initializer_strs": "x", "learned_embeddings": {"clip_l": torch.rand(2, 8), 3: 4}}},
        {
            "a": {
                "initializer_strs": "x",
                "learned_embeddings": {key: torch.rand(2, 8) for key in ("clip_l", "t5")},
            }
        },
        {"a": {"initializer_strs": "x", "learned_embeddings": [1.0]}},
    ],
    ids=lambda entries: type(entries).__name__,
)
def test_an_earlier_file_of_another_shape_is_refused(tmp_path: Path, entries: Any) -> None:
    torch.save(entries, tmp_path / EARLIER_FILE)
    with pytest.raises(ConceptError, match=EARLIER_FILE):
        read_concepts(tmp_path / EARLIER_FILE)


def test_a_place_without_a_concept_is_refused(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    for path, said in (
        (tmp_path, "holds no concept"),
        (tmp_path / "no", "no such file"),
        (long, "cannot be read: File name too long"),
    ):
        with pytest.raises(ConceptError, match=said):
            read_concepts(path)


@pytest.mark.parametrize("token", ["../outside", "a/b"])
def test_a_strangers_file_cannot_name_a_place_to_write_to(tmp_path: Path, token: str) -> None:
    save_file({token: torch.rand(2, 8)}, tmp_path / "a.safetensors")
    with pytest.raises(ConceptError):
        write_concepts(tmp_path / "export", read_concepts(tmp_path / "a.safetensors"))
