"""The convert command: what it reads, where it writes, what it says."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from detsd.__main__ import main
from detsd.adapters import FILE, Adapter, Layer, read_adapter, write_adapter
from detsd.concepts import EARLIER_FILE, Concept, encode_concepts, read_concepts, write_concepts

UUID = "0f5bd5a2-7c1c-4a57-9d0e-2f6f3a1b6c55"
MODULE = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def checkpoint(tmp_path):
    """A run's checkpoint with an adapter."""
    layers = {
        MODULE: Layer(torch.rand(4, 8), torch.rand(8, 4), 2.0),
        "unet.conv_in": Layer(torch.rand(2, 4, 3, 3), torch.rand(8, 2, 1, 1), 2.0),
    }
    write_adapter(tmp_path / "step-000500" / "export" / FILE, Adapter(layers, {"steps": 500}))
    return tmp_path / "step-000500"


@pytest.fixture
def said(capsys):
    """Run the command, and return its exit code and the one line that it says."""

    def convert(*arguments):
        code = main(["convert", *map(str, arguments)])
        spoken = capsys.readouterr()
        (line,) = (spoken.err if code else spoken.out).splitlines()
        assert not (spoken.out if code else spoken.err)
        return code, line

    return convert


@pytest.fixture
def lines(capsys):
    """Run the command, and return the lines that it says."""

    def convert(*arguments):
        assert main(["convert", *map(str, arguments)]) == 0
        return capsys.readouterr().out.splitlines()

    return convert


def layout_of(path):
    return "kohya" if KEY.encode() in path.read_bytes() else "diffusers"


def test_a_checkpoint_becomes_a_file_of_kohyas_and_again_of_diffusers(checkpoint, tmp_path, said):
    kohyas, back = tmp_path / "logo.safetensors", tmp_path / "back.safetensors"
    code, line = said(checkpoint, kohyas, "--format", "kohya")
    assert code == 0 and layout_of(kohyas) == "kohya"
    assert line == f"{kohyas}: 2 modules, ranks 2 to 4, kohya's layout, 1.5 kB"
    code, line = said(kohyas, back)
    assert line == f"{back}: 2 modules, ranks 2 to 4, diffusers' layout, 1.2 kB"
    assert read_adapter(back).about["steps"] == 500
    assert layout_of(back) == "diffusers"


def test_in_a_folder_the_file_has_the_name_that_its_readers_look_for(checkpoint, tmp_path, said):
    _, line = said(checkpoint, tmp_path / "for-diffusers")
    assert line.startswith(str(tmp_path / "for-diffusers" / FILE))
    said(checkpoint, tmp_path / "loras", "--format", "kohya")
    assert layout_of(tmp_path / "loras" / "step-000500.safetensors") == "kohya"
    shutil.copy(checkpoint / "export" / FILE, tmp_path / "v1.5 logo.safetensors")
    said(tmp_path / "v1.5 logo.safetensors", tmp_path / "loras", "--format", "kohya")
    assert layout_of(tmp_path / "loras" / "v1.5 logo.safetensors") == "kohya"


def test_a_file_may_be_converted_in_its_place(checkpoint, said):
    file = checkpoint / "export" / FILE
    assert said(file, file, "--format", "kohya")[0] == 0
    assert layout_of(file) == "kohya"


def test_a_cluster_checkpoint_is_fetched(checkpoint, tmp_path, monkeypatch, said):
    kept = tmp_path / ".cache" / "detsd" / "checkpoints" / UUID
    shutil.copytree(checkpoint, kept)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert said(UUID, tmp_path / "loras", "--format", "kohya")[0] == 0
    assert (tmp_path / "loras" / f"{UUID}.safetensors").is_file()


# Words.

SUFFIX_OF = {
    "diffusers": "det-logo.safetensors",
    "a1111": "det-logo.pt",
    "kohya": "det-logo.safetensors",
    "determined": EARLIER_FILE,
}


def concept(name="det-logo", count=3, **more):
    vectors = {"clip_l": torch.rand(count, 768), **more}
    return Concept(name, vectors, "brain logo", {"steps": 500})


def assert_same(path, *wanted):
    """See that the file holds these concepts."""
    for found, one in zip(read_concepts(path), wanted, strict=True):
        assert (found.name, found.initializer) == (one.name, one.initializer)
        assert found.vectors.keys() == one.vectors.keys()
        assert all(torch.equal(found.vectors[key], one.vectors[key]) for key in one.vectors)


@pytest.fixture
def pivotal(checkpoint):
    """A run's checkpoint with an adapter and a word, which is returned, too."""
    word = concept()
    write_concepts(checkpoint / "export", [word])
    return checkpoint, word


@pytest.mark.parametrize("layout", SUFFIX_OF)
@pytest.mark.parametrize("source", SUFFIX_OF)
def test_a_word_goes_from_each_layout_to_each(tmp_path, said, source, layout):
    word = concept()
    given = tmp_path / SUFFIX_OF[source]
    given.write_bytes(encode_concepts([word], source))
    file = tmp_path / "out" / SUFFIX_OF[layout]
    for target in (file, file.parent):
        code, line = said(given, target, "--format", layout)
        holds = (
            f"det-logo (3 vectors of 768), {layout}'{'' if layout == 'diffusers' else 's'} layout"
        )
        assert code == 0 and line == f"{file}: {holds}, {file.stat().st_size / 1e3:.1f} kB"
        assert_same(file, word)
        assert file.read_bytes() == encode_concepts(read_concepts(given), layout)
        file.unlink()


def test_without_a_format_it_is_diffusers_own(tmp_path, said):
    (tmp_path / "a.pt").write_bytes(encode_concepts([concept("<cat>", 1)], "a1111"))
    _, line = said(tmp_path / "a.pt", tmp_path / "out")
    assert line.startswith(
        f"{tmp_path / 'out' / '<cat>.safetensors'}: <cat> (1 vector of 768), diff"
    )


def test_options_may_stand_among_the_paths(tmp_path, said):
    write_concepts(tmp_path, [concept()])
    out = tmp_path / "out.pt"
    assert said(tmp_path / "det-logo.safetensors", "--format", "a1111", out)[0] == 0
    assert_same(out, concept_in(tmp_path))


def concept_in(folder):
    (one,) = read_concepts(folder / "det-logo.safetensors")
    return one


def test_a_word_of_two_encoders_is_where_the_web_uis_look_for_it(tmp_path, said):
    word = concept(clip_g=torch.rand(3, 1280))
    (tmp_path / "a.pt").write_bytes(encode_concepts([word], "determined"))
    for layout in ("diffusers", "a1111", "kohya"):
        _, line = said(tmp_path / "a.pt", tmp_path / layout, "--format", layout)
        assert "(3 vectors of 768+1280)" in line
        assert load_file(tmp_path / layout / "det-logo.safetensors").keys() == {"clip_l", "clip_g"}
        assert_same(tmp_path / layout / "det-logo.safetensors", word)
    code, line = said(tmp_path / "a.pt", tmp_path / "b.pt", "--format", "a1111")
    assert code == 2 and line.endswith("b.pt: a .safetensors file or a folder is wanted")


def test_a_word_may_be_converted_in_its_place_under_a_new_name(tmp_path, said):
    word, file = concept("before"), tmp_path / "word.safetensors"
    file.write_bytes(encode_concepts([word]))
    for layout, name in (("kohya", "naïve 脑"), ("diffusers", "<after>")):
        assert said(file, file, "--format", layout, "--name", name)[0] == 0
        assert_same(file, replace(word, name=name))
    assert [path.name for path in tmp_path.iterdir()] == ["word.safetensors"]


def test_files_that_take_each_others_places_lose_nothing(tmp_path, lines):
    one, other = concept("one"), concept("other")
    (tmp_path / "other.safetensors").write_bytes(encode_concepts([one]))
    (tmp_path / "one.safetensors").write_bytes(encode_concepts([other]))
    assert len(lines(*sorted(tmp_path.iterdir()), tmp_path)) == 2
    assert_same(tmp_path / "one.safetensors", one)
    assert_same(tmp_path / "other.safetensors", other)


def test_a_checkpoint_with_both_becomes_a_folder_of_both(pivotal, tmp_path, lines):
    checkpoint, word = pivotal
    assert len(lines(checkpoint, tmp_path / "theirs", "--format", "kohya")) == 2
    assert layout_of(tmp_path / "theirs" / "step-000500.safetensors") == "kohya"
    assert_same(tmp_path / "theirs" / "det-logo.safetensors", word)
    assert len(lines(tmp_path / "theirs", tmp_path / "back", "--name", "mine")) == 2
    assert layout_of(tmp_path / "back" / FILE) == "diffusers"
    assert_same(tmp_path / "back" / "mine.safetensors", replace(word, name="mine"))


def test_several_words_go_into_a_folder_or_one_file_that_can_hold_them(tmp_path, said, lines):
    words = [concept("a", 1), concept("b c", 2)]
    write_concepts(tmp_path / "run" / "export", words)
    _, line = said(tmp_path / "run", tmp_path / "all.pt", "--format", "determined")
    assert "all.pt: a (1 vector of 768), b c (2 vectors of 768), determined's layout" in line
    assert_same(tmp_path / "all.pt", *words)
    files = ["a.pt", "b c.pt"]
    printed = lines(tmp_path / "all.pt", tmp_path / "web-ui", "--format", "a1111")
    assert [line.partition(": ")[0] for line in printed] == [
        str(tmp_path / "web-ui" / name) for name in files
    ]
    both = [tmp_path / "web-ui" / name for name in files]
    said(*both, tmp_path / "again", "--format", "determined")
    assert_same(tmp_path / "again" / EARLIER_FILE, *words)
    for layout in ("diffusers", "a1111", "kohya"):
        out = tmp_path / f"one{'.pt' if layout == 'a1111' else '.safetensors'}"
        code, line = said(*both, out, "--format", layout)
        assert code == 2 and "one" in line and line.endswith("layout; a folder is wanted")
        assert not out.exists()


def test_words_that_would_be_one_are_refused(tmp_path, said):
    (tmp_path / "a.pt").write_bytes(encode_concepts([concept("Logo")], "a1111"))
    (tmp_path / "b.pt").write_bytes(encode_concepts([concept("logo")], "a1111"))
    for layout in ("diffusers", "determined"):
        code, line = said(*sorted(tmp_path.glob("*.pt")), tmp_path / "out", "--format", layout)
        assert code == 2 and "Logo is the name of more than one concept" in line
    assert not (tmp_path / "out").exists()


def test_adapters_that_would_be_one_are_refused(checkpoint, tmp_path, said):
    shutil.copy(checkpoint / "export" / FILE, tmp_path / "other.safetensors")
    given = (checkpoint, tmp_path / "other.safetensors")
    code, line = said(*given, tmp_path / "out")
    assert code == 2 and f"{tmp_path / 'out' / FILE}: would be written more than once" in line
    code, line = said(*given, tmp_path / "out.safetensors")
    assert code == 2 and "2 adapters (LoRA) do not go into one file" in line


@pytest.mark.parametrize("layout", ["a1111", "determined"])
def test_an_adapter_has_no_layout_of_a_words(pivotal, tmp_path, said, layout):
    checkpoint, _ = pivotal
    for place in (checkpoint, checkpoint / "export" / FILE):
        code, line = said(place, tmp_path / "out", "--format", layout)
        assert code == 2 and f"{FILE}: is an adapter (LoRA), for which the format diffusers" in line
        assert f"found {layout}" in line
    assert not (tmp_path / "out").exists()


def test_a_name_is_for_one_word(pivotal, tmp_path, said):
    checkpoint, _ = pivotal
    code, line = said(checkpoint / "export" / FILE, tmp_path / "out", "--name", "mine")
    assert code == 2 and "--name mine is for one concept, found 0" in line
    write_concepts(checkpoint / "export", [concept("other")])
    code, line = said(checkpoint, tmp_path / "out", "--name", "mine")
    assert code == 2 and line.endswith("--name mine is for one concept, found 2")
    for name in ("a/b", "..", "", "clip_l"):
        code, line = said(checkpoint, tmp_path / "out", "--name", name)
        assert code == 2 and f"--name: {name!r} cannot be a concept's name" in line


def test_a_word_in_an_adapters_file_may_have_the_name(checkpoint, tmp_path, lines):
    style = tmp_path / "style.safetensors"
    layers = load_file(checkpoint / "export" / FILE)
    save_file({**layers, "bundle_emb.cat.clip_l": torch.rand(2, 768)}, style)
    assert len(lines(style, tmp_path / "out", "--name", "mine")) == 2
    assert read_adapter(tmp_path / "out" / FILE)
    assert [one.name for one in read_concepts(tmp_path / "out")] == ["mine"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, said, monkeypatch):
    file = tmp_path / "a.safetensors"
    file.write_bytes(encode_concepts([concept()]))
    before = file.read_bytes()

    def full(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    code, line = said(file, file, "--format", "kohya")
    assert code == 2 and "a.safetensors could not be written: No space left on device" in line
    assert file.read_bytes() == before and [*tmp_path.iterdir()] == [file]


def test_a_colleague_may_read_what_is_written(pivotal, tmp_path, lines):
    checkpoint, _ = pivotal
    lines(checkpoint, tmp_path / "out", "--format", "kohya")
    (tmp_path / "out" / "plain.txt").write_text("what the umask allows")
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1


def test_options_that_say_nothing_together_are_refused(tmp_path, said):
    write_concepts(tmp_path, [concept()])
    for options in (["--format", "kohya"], ["--name", "mine"]):
        code, line = said("--list", tmp_path, *options)
        assert code == 2 and "--list writes no file" in line
    for options in (["--json"], ["--model", tmp_path]):
        code, line = said(tmp_path, tmp_path / "out", *options)
        assert code == 2 and "--json and --model go with --list" in line
    code, line = said(tmp_path)
    assert code == 2 and f"{tmp_path}: what to read is wanted, and behind it what to write" in line


def test_a_mistake_is_said_in_a_line(checkpoint, tmp_path, said, monkeypatch):
    code, line = said(tmp_path / "none", tmp_path / "out")
    assert code == 2 and line.startswith(f"error: {tmp_path / 'none'}: no such file or folder")
    code, line = said(checkpoint, tmp_path / "out.pt")
    assert code == 2 and "out.pt: a .safetensors file or a folder is wanted" in line
    (tmp_path / "file").touch()
    code, line = said(checkpoint, tmp_path / "file" / "out.safetensors")
    assert code == 2 and "out.safetensors could not be written: " in line
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DET_MASTER", "http://127.0.0.1:1")
    code, line = said(UUID, tmp_path / "out")
    assert code == 2 and f"no file or folder is called {UUID}" in line
    assert not (tmp_path / "out").exists()
