"""What a word may be called: what its files can be read with again, and no more."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detsd.checkpoints import read_export
from detsd.concepts import (
    Concept,
    ConceptError,
    encode_concepts,
    kind_of_file,
    read_concepts,
    write_concepts,
)
from detsd.config import ConceptsConfig, ConfigError, read
from detsd.contents import OF_COG
from detsd.embeddings import ENCODERS
from detsd.formats import FORMATS
from detsd.names import why_not

TAKEN = [
    *(*OF_COG, *ENCODERS, "emb_params", "emp_params", "emb_params_out", "clip_l_out"),
    *("__metadata__", "bundle_emb.x", "pytorch_lora_weights", "Learned_Embeddings_Dict"),
]
# As tensors and files are called, and yet they may be words.
ODD = [
    *("my_lora_style", "cat.weight", "logo.alpha", "a.lora.down.weight", "lora_unet_a.diff"),
    *("state_dict", "string_to_param", "detsd", "unet", "t5", "cat.pt", "clip_l_2", "a-steps-5"),
]


def config(word: str) -> ConceptsConfig:
    given = {"concept_strs": word, "initializer_strs": "x", "img_dirs": str(Path.cwd())}
    return read(ConceptsConfig, given)


def concept(name: str, two: bool = False) -> Concept:
    vectors = {"clip_l": torch.rand(2, 768), **({"clip_g": torch.rand(2, 1280)} if two else {})}
    return Concept(name, vectors, "x")


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_that_files_have_for_something_else_is_refused_before_it_is_learnt(
    name: str,
) -> None:
    with pytest.raises(ConfigError, match="no word can be called so: in files"):
        config(name)
    for layout in FORMATS:
        with pytest.raises(ConceptError, match="cannot be a concept's name: in files"):
            encode_concepts([concept(name)], layout)


@pytest.mark.parametrize("two", [False, True], ids=["one encoder", "two encoders"])
@pytest.mark.parametrize("name", ODD)
def test_any_other_is_read_from_what_we_write(tmp_path: Path, name: str, two: bool) -> None:
    assert config(name).concept_strs == (name,)
    one = concept(name, two)
    for layout in FORMATS:
        folder = tmp_path / layout
        folder.mkdir()
        file = folder / f"{name}{kind_of_file([one], layout).suffix}"
        file.write_bytes(encode_concepts([one], layout))
        for found in (read_concepts(folder), read_export(file).concepts):
            assert [(word.name, word.vectors.keys()) for word in found] == [
                (name, one.vectors.keys())
            ]
    write_concepts(tmp_path / "export", [one, concept("logo")])
    export = read_export(tmp_path)
    assert {word.name for word in export.concepts} == {name, "logo"} and not export.adapter


@pytest.mark.parametrize("stem", ["emb_params", "clip_l", ".x"])
def test_a_file_that_says_no_name_is_no_name_itself(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.safetensors"
    save_file({"emb_params": torch.rand(2, 768)}, path)
    with pytest.raises(ConceptError, match=f"'{stem}' cannot be .*; rename the file, or convert "):
        read_concepts(path)
    assert [one.name for one in read_concepts(path, "mine")] == ["mine"]


def test_a_name_is_a_files_too() -> None:
    for name in ("", " ", ".x", "a/b", "a\\b", "a\nb", "x" * 201, 5, None):
        assert why_not(name)
    assert not why_not("x" * 200) and not why_not("naïve 脑")
