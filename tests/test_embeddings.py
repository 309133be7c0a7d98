"""Every layout of a concept's file, as its tool writes it, is read to the same vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from torch import nn

from detsd.adapters import read_adapter
from detsd.checkpoints import read_export
from detsd.concepts import ConceptError, read_concepts
from detsd.contents import Content
from detsd.embeddings import LAYOUTS, embeddings_in
from tests import carried

ROWS = torch.rand(3, 768, generator=torch.Generator().manual_seed(0))
MORE = torch.rand(3, 1280, generator=torch.Generator().manual_seed(1))
LORA = {
    "unet.conv_in.lora.down.weight": torch.rand(2, 4, 3, 3),
    "unet.conv_in.lora.up.weight": torch.rand(8, 2, 1, 1),
}
AUTOMATIC = {
    "string_to_token": {"*": 265},
    "string_to_param": {"*": ROWS},
    "name": "a cat",
    "step": 900,
    "sd_checkpoint": "7460a6fa",
    "sd_checkpoint_name": "sd-v1-4",
}


class EmbeddingManager(nn.Module):
    """Keeps its parameters as rinongal's does, in a module of torch's."""

    def save(self, path, **how):
        parameters = nn.ParameterDict({"*": nn.Parameter(ROWS)})
        torch.save({"string_to_token": {"*": 265}, "string_to_param": parameters}, path, **how)


def safetensors(tensors, **metadata):
    # Copies: tensors that are views of one are refused.
    own = {key: value.clone() for key, value in tensors.items()}
    return lambda path: save_file(own, path, metadata=metadata or None)


def pickled(value, **how):
    return lambda path: torch.save(value, path, **how)


def png(path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("sd-ti-embedding", carried.as_text(AUTOMATIC))
    Image.new("RGB", (64, 64), "teal").save(path, pnginfo=texts)


def cog(path):
    save_file({"text_encoders_0": ROWS, "text_encoders_1": MORE}, path)
    path.with_name("special_params.json").write_text(json.dumps({"TOK": "<s0><s1><s2>"}))


FILES = {
    "diffusers": ("x.safetensors", safetensors({"<cat>": ROWS}), "<cat>"),
    "diffusers .bin": ("learned_embeds.bin", pickled({"<cat>": ROWS}), "<cat>"),
    "sd-concepts-library": ("learned_embeds.bin", pickled({"<cat-toy>": ROWS[0]}), "<cat-toy>"),
    "diffusers advanced": ("cat_emb.safetensors", safetensors({"clip_l": ROWS}), "cat_emb"),
    "SDXL": ("cat.safetensors", safetensors({"clip_l": ROWS, "clip_g": MORE}), "cat"),
    "SDXL .pt": ("cat.pt", pickled({"clip_g": MORE, "clip_l": ROWS}), "cat"),
    "a1111": ("cat.pt", pickled(AUTOMATIC), "a cat"),
    "a1111, not renamed": ("cat.pt", pickled({**AUTOMATIC, "name": None}), "cat"),
    "a1111, old torch": (
        "cat.pt",
        pickled(
            {**AUTOMATIC, "string_to_param": {"*": nn.Parameter(ROWS)}},
            _use_new_zipfile_serialization=False,
        ),
        "a cat",
    ),
    "a1111 PNG": ("cat.png", png, "a cat"),
    "a1111 WebP": ("cat.webp", lambda path: carried.hide(AUTOMATIC, path), "a cat"),
    "rinongal": ("embeddings_gs-99.pt", EmbeddingManager().save, "embeddings_gs-99"),
    "rinongal, old torch": (
        "embeddings_gs-99.pt",
        lambda path: EmbeddingManager().save(path, _use_new_zipfile_serialization=False),
        "embeddings_gs-99",
    ),
    "kohya": ("cat.safetensors", safetensors({"emb_params": ROWS}), "cat"),
    "kohya .pt": ("cat.pt", pickled({"emb_params": ROWS}), "cat"),
    "ai-toolkit": (
        "cat_000000900.safetensors",
        safetensors({"emb_params": ROWS}, name='"cat"', step="900", string_to_token='{"*": 265}'),
        "cat",
    ),
    "OneTrainer": (
        "cat.safetensors",
        safetensors({"emp_params": ROWS, "emp_params_out": ROWS + 1}),
        "cat",
    ),
    "OneTrainer SDXL": (
        "cat.safetensors",
        safetensors({"clip_l": ROWS, "clip_g": MORE, "clip_l_out": ROWS, "clip_g_out": MORE}),
        "cat",
    ),
    "cog": ("embeddings.pti", cog, "TOK"),
    "cloneofsimo .ti.pt": ("cat.ti.pt", pickled({"<s1>": ROWS[0]}), "<s1>"),
    "cloneofsimo": (
        "lora.safetensors",
        safetensors({"unet:0:up": ROWS, "<s1>": ROWS[0]}, **{"<s1>": "<embed>", "unet": "[]"}),
        "<s1>",
    ),
    "bundled in a LoRA": (
        "style.safetensors",
        safetensors({**LORA, "bundle_emb.a.cat.clip_l": ROWS, "bundle_emb.a.cat.clip_g": MORE}),
        "a.cat",
    ),
    "bundled for the web UI": (
        "style.safetensors",
        safetensors({**LORA, "bundle_emb.cat.string_to_param.*": ROWS}),
        "cat",
    ),
    "determined": (
        "learned_embeddings_dict.pt",
        pickled({"a cat": {"initializer_strs": "tabby", "learned_embeddings": ROWS}}),
        "a cat",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_each_tool_is_read_to_the_same_vectors(tmp_path: Path, kind: str) -> None:
    file_name, write, name = FILES[kind]
    write(tmp_path / file_name)
    (found,) = read_concepts(tmp_path / file_name)
    assert found.name == name
    rows = ROWS if found.num_vectors == 3 else ROWS[:1]
    assert torch.equal(found.vectors["clip_l"], rows)
    if len(found.vectors) > 1:
        assert torch.equal(found.vectors["clip_g"], MORE)
    assert (len(found.vectors) > 1) is any(
        mark in kind for mark in ("SDXL", "cog", "bundled in a LoRA")
    )
    assert read_concepts(tmp_path / file_name, name="mine")[0].name == "mine"


def test_what_a_file_says_of_itself_is_kept(tmp_path: Path) -> None:
    for kind, about in {
        "a1111": {"steps": 900, "base_model": "sd-v1-4", "base_digest": "7460a6fa"},
        "a1111 WebP": {"steps": 900, "base_model": "sd-v1-4", "base_digest": "7460a6fa"},
        "ai-toolkit": {"steps": 900},
        "determined": {},
    }.items():
        file_name, write, _ = FILES[kind]
        write(tmp_path / file_name)
        (found,) = read_concepts(tmp_path / file_name)
        assert (found.about, found.initializer) == (about, "tabby" if kind == "determined" else "")


def test_vectors_behind_the_encoder_are_said_to_be_left_out(tmp_path: Path, caplog) -> None:
    _, write, _ = FILES["OneTrainer"]
    write(tmp_path / "cat.safetensors")
    read_concepts(tmp_path / "cat.safetensors")
    assert "left out is emp_params_out" in caplog.text


def test_an_adapter_that_lies_beside_words_and_is_not_read_is_said_to_be(
    tmp_path: Path, caplog
) -> None:
    _, write, _ = FILES["cloneofsimo"]
    write(tmp_path / "cat.safetensors")
    read_concepts(tmp_path / "cat.safetensors")
    assert "left out is an adapter of" in caplog.text


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_two_files_of_diffusers_are_one_concept_of_sdxl(tmp_path: Path, suffix: str) -> None:
    write = safetensors if suffix == ".safetensors" else pickled
    write({"<cat>": ROWS})(tmp_path / f"learned_embeds{suffix}")
    write({"<cat>": MORE})(tmp_path / f"learned_embeds_2{suffix}")
    write({"<dog>": ROWS[0]})(tmp_path / f"one{suffix}")
    write({"<dog>": MORE[0]})(tmp_path / f"one_2{suffix}")
    (dog,) = read_concepts(tmp_path / f"one{suffix}")
    assert torch.equal(dog.vectors["clip_g"], MORE[:1])
    for half in ("one", "one_2"):
        (tmp_path / f"{half}{suffix}").unlink()
    for place in (tmp_path, tmp_path / f"learned_embeds{suffix}"):
        (found,) = read_concepts(place)
        assert found.name == "<cat>" and torch.equal(found.vectors["clip_g"], MORE)
    with pytest.raises(ConceptError, match="for the second text encoder .* alone"):
        read_concepts(tmp_path / f"learned_embeds_2{suffix}")


def test_of_diffusers_steps_the_last_is_taken(tmp_path: Path) -> None:
    for step in (500, 1000):
        safetensors({"<cat>": ROWS * step})(tmp_path / f"learned_embeds-steps-{step}.safetensors")
        safetensors({"<cat>": MORE})(tmp_path / f"learned_embeds_2-steps-{step}.safetensors")
    (found,) = read_concepts(tmp_path)
    assert torch.equal(found.vectors["clip_l"], ROWS * 1000) and "clip_g" in found.vectors
    (early,) = read_concepts(tmp_path / "learned_embeds-steps-500.safetensors")
    assert torch.equal(early.vectors["clip_l"], ROWS * 500) and "clip_g" in early.vectors
    safetensors({"<cat>": ROWS})(tmp_path / "learned_embeds.safetensors")
    safetensors({"<cat>": MORE})(tmp_path / "learned_embeds_2.safetensors")
    (found,) = read_concepts(tmp_path)
    assert torch.equal(found.vectors["clip_l"], ROWS)


def test_a_folder_of_cogs_is_read_whatever_lies_beside(tmp_path: Path) -> None:
    cog(tmp_path / "embeddings.pti")
    safetensors(LORA)(tmp_path / "lora.safetensors")
    assert [found.name for found in read_concepts(tmp_path)] == ["TOK"]
    for words in ('{"TOK": "<s9>"}', '{"TOK": "<s0><s0>"}', "no json"):
        (tmp_path / "special_params.json").write_text(words)
        with pytest.raises(ConceptError, match="embeddings.pti: .*special_params.json"):
            read_concepts(tmp_path)


def test_a_number_of_numpys_among_the_values_is_passed_over(tmp_path: Path) -> None:
    torch.save({**AUTOMATIC, "step": np.int64(900)}, tmp_path / "cat.pt")
    assert read_concepts(tmp_path / "cat.pt")[0].about["base_model"] == "sd-v1-4"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"cat": ROWS}, {"cat_2": ROWS}),
        ({"cat": ROWS}, {"cat": torch.rand(3, 1024)}),
        ({"cat": ROWS}, {"cat_2": ROWS[:, :32]}),
        ({"emb_params": ROWS}, {"emb_params": ROWS[:, :32]}),
        ({"emb_params": ROWS}, {"clip_l": ROWS[:, :32]}),
        ({"cat": ROWS[0]}, {"cat_2": ROWS[0]}),
    ],
)
def test_two_concepts_with_numbers_stay_two(tmp_path: Path, one, other) -> None:
    safetensors(one)(tmp_path / "cat.safetensors")
    safetensors(other)(tmp_path / "cat_2.safetensors")
    found = [found.name for found in read_concepts(tmp_path)]
    assert found == ["cat", "cat" if "cat" in other else "cat_2"]
    (tmp_path / "cat_2.safetensors").write_bytes(b"damaged")
    assert read_concepts(tmp_path / "cat.safetensors")[0].name == "cat"


def test_several_words_in_one_file_are_as_many_concepts(tmp_path: Path) -> None:
    pickled({"<s1>": ROWS[0], "<s2>": ROWS[1]})(tmp_path / "two.pt")
    found = read_concepts(tmp_path / "two.pt")
    assert [one.name for one in found] == ["<s1>", "<s2>"]
    assert torch.equal(found[1].vectors["clip_l"], ROWS[1:2])
    same = read_concepts(tmp_path / "two.pt", name="mine")  # which is for one that lies alone
    assert [one.name for one in same] == ["<s1>", "<s2>"]


def test_our_notes_name_the_word_of_a_file_that_has_one(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors({"a": ROWS, "b": ROWS}, detsd='{"name": "x", "initializer": null}')(path)
    assert [(one.name, one.initializer) for one in read_concepts(path)] == [("a", ""), ("b", "")]
    safetensors({"a": ROWS}, detsd='{"name": "x", "initializer": "cat"}')(path)
    assert [(one.name, one.initializer) for one in read_concepts(path)] == [("x", "cat")]


def test_a_strangers_word_may_be_called_after_a_method(tmp_path: Path) -> None:
    safetensors({"my_lora_style": ROWS, "logo.alpha": ROWS})(tmp_path / "a.safetensors")
    found = [one.name for one in read_export(tmp_path / "a.safetensors").concepts]
    assert found == ["logo.alpha", "my_lora_style"]


def test_words_of_cog_share_its_rows_as_the_file_beside_says(tmp_path: Path) -> None:
    cog(tmp_path / "embeddings.pti")
    (tmp_path / "special_params.json").write_text('{"CAT": "<s0><s2>", "DOG": "<s1>"}')
    cat, dog = read_concepts(tmp_path)
    assert (cat.name, dog.name) == ("CAT", "DOG")
    assert torch.equal(cat.vectors["clip_g"], MORE[[0, 2]])
    assert torch.equal(dog.vectors["clip_l"], ROWS[1:2])


def test_a_lora_brings_the_words_that_lie_in_its_file(tmp_path: Path) -> None:
    _, write, _ = FILES["bundled in a LoRA"]
    write(tmp_path / "style.safetensors")
    export = read_export(tmp_path / "style.safetensors")
    assert list(export.adapter.layers) == ["unet.conv_in"]
    assert [one.name for one in export.concepts] == ["a.cat"]
    safetensors(LORA)(tmp_path / "plain.safetensors")
    assert read_export(tmp_path / "plain.safetensors").concepts == ()
    assert (
        read_adapter(tmp_path / "style.safetensors").layers.keys() == export.adapter.layers.keys()
    )


def test_an_adapter_is_taken_without_the_words_that_no_model_here_has(
    tmp_path: Path, caplog
) -> None:
    safetensors({**LORA, "bundle_emb.cat.t5": ROWS})(tmp_path / "flux.safetensors")
    export = read_export(tmp_path / "flux.safetensors")
    assert export.adapter and export.concepts == ()
    assert "left out: " in caplog.text and "has cat for t5" in caplog.text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"unet.a.lora.up.weight": ROWS}, "holds no concept, but an adapter"),
        ({"model.diffusion_model.out.weight": ROWS}, "holds no concept, but a whole model"),
        ({"cat": ROWS, "emb_params": ROWS}, "is no concept in a layout of determined, a1111"),
        ({"clip_l": ROWS, "t5": ROWS}, "is no concept in a layout of determined, a1111"),
        ({"bundle_emb.cat.t5": ROWS}, "has cat for t5, which no model here has"),
        ({}, "holds nothing"),
    ],
)
def test_what_is_no_concept_is_named(values, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        embeddings_in(Content(values, {}))


def test_a_run_that_diverged_is_refused(tmp_path: Path) -> None:
    safetensors({"cat": ROWS / 0})(tmp_path / "cat.safetensors")
    with pytest.raises(ConceptError, match="no numbers, of a run that diverged"):
        read_concepts(tmp_path / "cat.safetensors")


def test_each_layout_has_a_name_of_its_own() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
