"""Each format is read by us as it was written, and by the tools that it is for by their rules."""

import os
import pickletools
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from detsd.concepts import (
    Concept,
    ConceptError,
    encode_concepts,
    kind_of_file,
    read_concepts,
    write_concepts,
)
from detsd.embeddings import LAYOUTS
from detsd.formats import FORMATS
from tests.test_model import encode_in_diffusers, made_up

NAMES = ["det-logo", "<det-logo>", "two words", "c++ (new) [x]", "naïve-脑"]
NOTES = {"steps": 500, "base_model": "a/b", "version": "0.1.0"}
OF_OTHERS = ("diffusers", "a1111", "kohya")  # that hold one word, which other tools read
ENCODERS = {"one encoder": {"clip_l": 768}, "two encoders": {"clip_l": 768, "clip_g": 1280}}
both = pytest.mark.parametrize("widths", ENCODERS.values(), ids=ENCODERS)


def concept(name="det-logo", widths=ENCODERS["one encoder"], count=3, **about):
    vectors = {key: torch.randn(count, width) for key, width in widths.items()}
    return Concept(name, vectors, "brain logo, 脑", about)


def written(folder, word, layout):
    """Write the word as `convert` does, and return its file."""
    path = folder / f"{word.name}{kind_of_file([word], layout).suffix}"
    path.write_bytes(encode_concepts([word], layout))
    return path


def assert_same_vectors(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@both
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", FORMATS)
def test_what_is_written_is_read_again(tmp_path, layout, name, widths):
    wanted = concept(name, widths, **NOTES)
    path = written(tmp_path, wanted, layout)
    renamed = Path(shutil.copy(path, tmp_path / f"other{path.suffix}"))
    for place in (path, renamed):
        (found,) = read_concepts(place)
        assert_same_vectors(found.vectors, wanted.vectors)
        assert (found.name, found.initializer) == (name, wanted.initializer)
        held = {} if layout == "determined" else NOTES
        assert {key: found.about[key] for key in NOTES if key in found.about} == held


def test_each_format_is_one_of_those_that_are_read():
    assert FORMATS.keys() <= {layout.name for layout in LAYOUTS}


@pytest.mark.parametrize("layout", FORMATS)
def test_a_name_that_is_given_is_not_undone_by_the_one_before(tmp_path, layout):
    path = written(tmp_path, concept("before", **NOTES), layout)
    (renamed,) = read_concepts(path, name="after")
    (found,) = read_concepts(written(tmp_path, renamed, layout))
    assert found.name == "after"


@pytest.mark.parametrize("layout", FORMATS)
def test_files_with_numbers_behind_their_names_are_no_halves_of_one_word(tmp_path, layout):
    words = [concept("logo", count=3), concept("logo_2", count=2)]
    for word in words:
        (found,) = read_concepts(written(tmp_path, word, layout))
        assert_same_vectors(found.vectors, word.vectors)
    (found,) = read_concepts(tmp_path / f"logo{kind_of_file(words, layout).suffix}")
    assert_same_vectors(found.vectors, words[0].vectors)


def test_several_words_go_into_one_file_of_the_earlier_examples(tmp_path):
    words = [concept("a"), concept("b", ENCODERS["two encoders"]), concept("c", count=1)]
    (tmp_path / "all.pt").write_bytes(encode_concepts(words, "determined"))
    for found, wanted in zip(read_concepts(tmp_path / "all.pt"), words, strict=True):
        assert (found.name, found.initializer) == (wanted.name, wanted.initializer)
        assert_same_vectors(found.vectors, wanted.vectors)
    entry = torch.load(tmp_path / "all.pt", weights_only=True)["a"]
    assert entry.keys() == {"initializer_strs", "learned_embeddings"}
    assert torch.equal(entry["learned_embeddings"], words[0].vectors["clip_l"])


# What other tools do with a file, told again: see the sources that they are named after.


def content_of(path):
    safe = path.suffix == ".safetensors"
    return load_file(path) if safe else torch.load(path, weights_only=True)


def web_ui(path):
    """AUTOMATIC1111's: a check of the archive, and then the first layout that it knows."""
    if path.suffix != ".safetensors":
        check_archive(path)
    content = content_of(path)
    if "string_to_param" in content:
        (rows,) = content["string_to_param"].values()
        return path.stem, {"clip_l": rows}
    if {"clip_l", "clip_g"} <= content.keys():
        return path.stem, {key: content[key] for key in ("clip_l", "clip_g")}
    (rows,) = content.values()
    return path.stem, {"clip_l": rows.unsqueeze(0) if rows.dim() == 1 else rows}


def check_archive(path):
    """Refuse entries and globals that the web UI's oldest versions in use do not know."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            assert re.fullmatch(r"[^/]+/(data/\d+|version|data\.pkl)", name), name
        (pickle,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        code = pickletools.genops(archive.read(pickle))
        names = {given for one, given, _ in code if one.name == "GLOBAL"}
    known = {"torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict"}
    assert names <= known


def comfy(path, encoder="clip_l"):
    """ComfyUI's: for each encoder what has its name, and else the first there is."""
    content = content_of(path)
    rows = content.get("string_to_param", content)
    return rows[encoder] if encoder in rows else next(iter(rows.values()))


def gen_img(path):
    """Kohya's gen_img: the first value, but for files that have one of each encoder."""
    content = content_of(path)
    if {"clip_l", "clip_g"} <= content.keys():
        return path.stem, {"clip_l": content["clip_l"], "clip_g": content["clip_g"]}
    rows = next(iter(content.get("string_to_param", content).values()))
    return path.stem, {"clip_l": rows}


def test_the_web_ui_refuses_an_archive_as_torch_makes_it(tmp_path):
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}}, tmp_path / "a.pt")
    with pytest.raises(AssertionError, match="a/"):
        web_ui(tmp_path / "a.pt")


@both
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", OF_OTHERS)
def test_the_tools_find_the_word_and_its_vectors(tmp_path, layout, name, count, widths):
    wanted = concept(name, widths, count, **NOTES)
    path = written(tmp_path, wanted, layout)
    for reader in (web_ui, gen_img):
        word, vectors = reader(path)
        assert word == name
        assert_same_vectors(vectors, wanted.vectors)
    for encoder, rows in wanted.vectors.items():
        assert torch.equal(comfy(path, encoder), rows)


def test_the_web_ui_shows_what_it_was_trained_on(tmp_path):
    path = written(tmp_path, concept(**NOTES), "a1111")
    content = torch.load(path, weights_only=True)
    known = {"name": "det-logo", "step": 500, "sd_checkpoint_name": "a/b"}
    assert {key: content[key] for key in known} == known
    assert content["sd_checkpoint"] is None
    kept = torch.load(written(tmp_path, concept(base_digest="7a"), "a1111"), weights_only=True)
    assert kept["sd_checkpoint"] == "7a"
    assert content["string_to_token"].keys() == content["string_to_param"].keys() == {"*"}
    unknown = torch.load(written(tmp_path, concept("new", steps=[5]), "a1111"), weights_only=True)
    assert unknown["step"] is unknown["sd_checkpoint_name"] is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("layout", OF_OTHERS)
def test_diffusers_own_loader_makes_the_same_of_a_prompt(
    load, models, tmp_path, layout, family, name
):
    model = load(family)
    word = made_up(model, name, 3)
    path = written(tmp_path, word, layout)
    pipeline = pipeline_of(models[family])
    if family == "sdxl":
        load_each(pipeline, load_file(path), name)
    elif layout == "kohya":
        pipeline.load_textual_inversion(path, token=name)  # it has no name for diffusers
    else:
        pipeline.load_textual_inversion(path)
    prompt = f"a photo of a {name}"
    plain = model.encode_prompts([prompt])
    model.add_concept(read_concepts(path)[0])
    wanted, (states, pooled) = model.encode_prompts([prompt]), encode_in_diffusers(pipeline, prompt)
    assert torch.equal(states, wanted.states) and not torch.equal(states, plain.states)
    assert family != "sdxl" or torch.equal(pooled, wanted.pooled)


def pipeline_of(folder):
    if not (folder / "text_encoder_2").is_dir():
        return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    # The published config's wrong id would have it pool another token: see tests/test_model.py.
    for module in pipeline.text_encoder_2.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = pipeline.tokenizer_2.eos_token_id
    return pipeline


def load_each(pipeline, vectors, name):
    for key, end in (("clip_l", ""), ("clip_g", "_2")):
        pipeline.load_textual_inversion(
            vectors[key],
            token=name,
            text_encoder=getattr(pipeline, f"text_encoder{end}"),
            tokenizer=getattr(pipeline, f"tokenizer{end}"),
        )


WRITE = """
import sys, torch
from pathlib import Path
from detsd.concepts import Concept, encode_concepts
from detsd.formats import FORMATS
notes = {"steps": 5, "base_model": "a/b", "version": "1", "more": [1, 2]}
for more in ({}, {"clip_g": torch.ones(2, 4)}):
    word = Concept("a-b", {"clip_l": torch.ones(2, 8), **more}, "x", notes)
    for layout in FORMATS:
        Path(sys.argv[1], f"{layout}-{len(more)}").write_bytes(encode_concepts([word], layout))
"""


def test_the_bytes_are_the_same_in_every_process(tmp_path):
    made = []
    for seed in ("1", "2"):
        folder = tmp_path / f"run-{seed}"
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", WRITE, str(folder)]
        subprocess.run(command, env=environment, check=True, timeout=60)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1] and len(made[0]) == 2 * len(FORMATS)


@pytest.mark.parametrize("layout", FORMATS)
def test_of_a_part_of_a_table_that_part_is_written(layout):
    table = torch.randn(1000, 8, requires_grad=True)
    part, own = Concept("a", {"clip_l": table[3:5]}), table[3:5].detach().clone()
    assert encode_concepts([part], layout) == encode_concepts(
        [Concept("a", {"clip_l": own})], layout
    )


def test_the_metadata_says_nothing_twice(tmp_path):
    path = written(tmp_path, concept(**NOTES), "kohya")
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["emb_params"]
        assert file.metadata().keys() == {"detsd", "name"}


def test_of_several_concepts_all_are_written_or_none(tmp_path):
    with pytest.raises(ConceptError, match="'a/b' cannot be a concept's name"):
        write_concepts(tmp_path / "export", [concept("good"), concept("a/b")])
    assert not (tmp_path / "export").exists()
