"""What a word may be called: what its files can be read with again, and no more."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detsd.concepts import (
    Concept,
    ConceptError,
    encode_concepts,
    read_concepts,
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


def config(word: str) -> ConceptsConfig:
    given = {"concept_strs": word, "initializer_strs": "x", "img_dirs": str(Path.cwd())}
    return read(ConceptsConfig, given)


def concept(name: str) -> Concept:
    return Concept(name, {"clip_l": torch.rand(2, 768)}, "x")


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_that_files_have_for_something_else_is_refused_before_it_is_learnt(
    name: str,
) -> None:
    with pytest.raises(ConfigError, match="no word can be called so: in files"):
        config(name)
    for layout in FORMATS:
        with pytest.raises(ConceptError, match="cannot be a concept's name: in files"):
            encode_concepts([concept(name)], layout)


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
