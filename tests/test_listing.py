"""The list of what was learnt: in a table to read, or in JSON."""

import json

import pytest
import torch

from detsd.__main__ import main
from detsd.adapters import FILE, Adapter, Layer, write_adapter
from detsd.concepts import Concept, encode_concepts, write_concepts

ABOUT = {"steps": 500, "base_model": "a/b"}
SDXL = {"clip_l": torch.ones(2, 768), "clip_g": 2 * torch.ones(2, 1280)}


@pytest.fixture
def listed(capsys):
    """Run the command, and return its exit code, the rows and what went wrong."""

    def run(*arguments):
        code = main(["convert", "--list", "--json", *map(str, arguments)])
        said = capsys.readouterr()
        return code, [json.loads(line) for line in said.out.splitlines()], said.err

    return run


@pytest.fixture
def pivotal(tmp_path):
    """A checkpoint with an adapter and two words."""
    layers = {
        "unet.conv_in": Layer(torch.rand(2, 4, 3, 3), torch.rand(8, 2, 1, 1), 2.0),
        "unet.conv_out": Layer(torch.rand(4, 8, 3, 3), torch.rand(4, 4, 1, 1), 2.0),
    }
    export = tmp_path / "export"
    write_adapter(export / FILE, Adapter(layers, {**ABOUT, "family": "sdxl"}))
    write_concepts(export, [Concept("det-logo", SDXL, "brain logo", ABOUT)])
    write_concepts(export, [Concept("old", {"clip_l": torch.ones(1, 1024)})])
    return tmp_path


def test_what_json_has_no_word_for_is_null(tmp_path, listed):
    about = {"steps": float("nan"), "base_model": "a/b"}
    words = [Concept("big", {"clip_l": torch.full((1, 768), 3e38)}, "", about)]
    (tmp_path / "big.safetensors").write_bytes(encode_concepts(words))
    code, (row,), _ = listed(tmp_path / "big.safetensors")
    assert (code, row["norm"], row["steps"]) == (0, [None], None)
    assert main(["convert", "--list", str(tmp_path / "big.safetensors")]) == 0


def test_each_word_and_adapter_is_a_line_of_json(pivotal, listed):
    code, rows, _ = listed(pivotal)
    adapter, logo, old = rows
    export = pivotal / "export"
    assert code == 0
    assert adapter == {
        "file": str(export / FILE),
        "adapter": "LoRA",
        "layers": 2,
        "ranks": [2, 4],
        "family": "sdxl",
        **ABOUT,
    }
    norms = [pytest.approx(768**0.5), pytest.approx(2 * 1280**0.5)]
    assert logo == {
        "file": str(export / "det-logo.safetensors"),
        "concept": "det-logo",
        "vectors": 2,
        "width": [768, 1280],
        "family": "Stable Diffusion XL",
        "norm": norms,
        "norm_ratio": None,
        "initializer": "brain logo",
        **ABOUT,
    }
    assert (old["family"], old["width"]) == ("Stable Diffusion 2.x", [1024])
    assert old["steps"] is old["base_model"] is None


def test_the_tables_have_words_and_below_them_adapters(pivotal, capsys):
    assert main(["convert", "--list", str(pivotal)]) == 0
    words, adapters = capsys.readouterr().out.split("\n\n")
    head, logo, old = (line.split() for line in words.splitlines())
    assert head[1:] == [
        *("concept", "vectors", "width", "family", "norm", "norm_ratio", "initializer"),
        *("steps", "base_model"),
    ]
    wanted = "det-logo 2 768+1280 Stable Diffusion XL 27.71+71.55 - brain logo 500 a/b"
    assert logo[1:] == wanted.split()
    wanted = "old 1 1024 Stable Diffusion 2.x 32 - - - -"
    assert old[1:] == wanted.split()
    head, adapter = (line.split() for line in adapters.splitlines())
    assert head[1:] == ["adapter", "layers", "ranks", "family", "steps", "base_model"]
    assert adapter[1:] == ["LoRA", "2", "2,4", "sdxl", "500", "a/b"]


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "its own"])
def test_a_base_model_that_lies_here_is_compared_with(models, tmp_path, listed, asked):
    about = {} if asked else {"base_model": str(models["sd1"])}
    word = Concept("a", {"clip_l": torch.ones(1, 32)}, "", about)
    (tmp_path / "a.pt").write_bytes(encode_concepts([word], "a1111"))
    other = Concept("b", {"clip_l": torch.ones(1, 48)}, "", about)  # of another family
    (tmp_path / "b.pt").write_bytes(encode_concepts([other], "a1111"))
    model = ["--model", models["sd1"]] if asked else []
    _, (one, two), _ = listed(tmp_path, *model)
    # The tiny models' vectors have a standard deviation of 0.02.
    assert one["norm_ratio"] == pytest.approx(1 / 0.02, rel=0.1)
    assert two["norm_ratio"] is None


@pytest.mark.parametrize("base", ["no/where", "x" * 5000, "a\0b", ["a"], "~nobody", 5])
def test_what_a_stranger_names_as_base_model_stops_nothing(tmp_path, listed, base):
    word = Concept("a", {"clip_l": torch.ones(1, 32)}, "", {"base_model": base, "steps": [1]})
    (tmp_path / "a.safetensors").write_bytes(encode_concepts([word]))
    code, (row,), _ = listed(tmp_path)
    assert code == 0 and row["norm_ratio"] is None and row["steps"] is None
    assert row["base_model"] == (None if isinstance(base, list) else base)


def test_what_a_stranger_writes_is_no_command_to_the_terminal(tmp_path, capsys):
    about = {"base_model": "b\x1b[31m\n"}
    word = Concept("a", {"clip_l": torch.ones(1, 8)}, "red " * 30, about)
    (tmp_path / "a.safetensors").write_bytes(encode_concepts([word]))
    assert main(["convert", "--list", str(tmp_path / "a.safetensors")]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert "\x1b" not in row and "b\N{REPLACEMENT CHARACTER}[31m" in row
    assert "red " * 11 + "red…" in row and "red " * 12 not in row


def test_what_cannot_be_read_does_not_hide_the_rest(pivotal, listed):
    (pivotal / "export" / "bad.pt").write_bytes(b"\x80\x02bad")
    code, rows, said = listed(pivotal)
    assert code == 2 and len(rows) == 3
    assert said.startswith(f"error: {pivotal / 'export' / 'bad.pt'}: ") and said.count("\n") == 1


def test_a_mistake_is_said_in_a_line(tmp_path, listed):
    code, rows, said = listed(tmp_path / "none")
    assert code == 2 and not rows and "no such file or folder" in said
    code, rows, said = listed(tmp_path, "--model", tmp_path)
    assert code == 2 and f"--model: {tmp_path} has no text encoder's vocabulary" in said
