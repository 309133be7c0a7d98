"""What is said of a picture: templates, file names, captions."""

from pathlib import Path
from typing import Any

import pytest

from detsd.config import ConceptsConfig, ConfigError, read
from detsd.prompts import TEMPLATES, file_name_words, folder_templates, read_captions
from detsd.prompts import picture_prompts as prompts

IMAGE = Path("somewhere/on_a_red_wall.jpg")


@pytest.fixture
def config(pictures: Path) -> Any:
    def config_with(**keys: Any) -> ConceptsConfig:
        entries = {
            "concept_strs": "det-logo",
            "initializer_strs": "brain logo",
            "learnable_properties": "object",
            "img_dirs": str(pictures),
        }
        return read(ConceptsConfig, {**entries, **keys})

    return config_with


@pytest.mark.parametrize("learnable", ["object", "style"])
def test_a_folder_has_the_templates_of_its_property(config: Any, learnable: str) -> None:
    read = config(learnable_properties=learnable)
    assert folder_templates(read.folders[0], read) == TEMPLATES[learnable]
    assert all(template.count("{}") == 1 for template in TEMPLATES[learnable])


def test_own_templates_stand_in_for_the_built_in_ones(config: Any) -> None:
    read = config(templates=["two of {}"], learnable_properties="style")
    assert folder_templates(read.folders[0], read) == ("two of {}",)


def test_blank_and_a_prompts_join_the_templates_each_time_anew(config: Any) -> None:
    read = config(templates="my {}", num_blank_prompts=2, num_a_prompts=1)
    for _ in range(2):
        assert folder_templates(read.folders[0], read) == ("my {}", "{}", "{}", "a {}")
    assert "{}" not in TEMPLATES["object"]


@pytest.mark.parametrize(
    ("keys", "name", "words"),
    [
        ({}, "on_a_red_wall.jpg", ""),
        ({"append_file_name_to_text": True}, "on_a_red_wall.jpg", "on a red wall"),
        ({"append_file_name_to_text": True}, "_on__a wall_.v2.jpg", "on a wall .v2"),
        (
            {"append_file_name_to_text": True, "file_name_split_char": "-"},
            "on-a_red-wall.jpg",
            "on a_red wall",
        ),
    ],
)
def test_a_file_name_is_said_when_asked_for(config: Any, keys: Any, name: str, words: str) -> None:
    assert file_name_words(Path(name), config(**keys)) == words


@pytest.mark.parametrize(
    ("captions", "said", "wanted"),
    [
        ([], "", ("a det-logo", "my det-logo")),
        ([], "on a wall", ("a det-logo on a wall", "my det-logo on a wall")),
        (["{} at noon"], "on a wall", ("det-logo at noon",)),
        (["{} and {}"], "", ("det-logo and det-logo",)),
        (["the Det-Logo at noon", "x {}"], "", ("the Det-Logo at noon", "x det-logo")),
        (["at noon"], "", ("a det-logo, at noon", "my det-logo, at noon")),
        (["{0} {x}"], "", ("a det-logo, {0} {x}", "my det-logo, {0} {x}")),
        # that is left names nothing to learn (tokens.expand finds det-logo in none of these).
        (["det-logos"], "", ("a det-logo, det-logos", "my det-logo, det-logos")),
        (["a det-logo-demo"], "", ("a det-logo, a det-logo-demo", "my det-logo, a det-logo-demo")),
    ],
)
def test_a_caption_stands_alone_or_follows_the_templates(
    captions: list[str], said: str, wanted: tuple[str, ...]
) -> None:
    assert prompts(IMAGE, "det-logo", ("a {}", "my {}"), captions, said) == wanted


def captions(folder: Path) -> dict[str, tuple[str, ...]]:
    found = read_captions(folder, sorted(folder.glob("*.png")))
    return {path.stem.removeprefix("on_a_wall_"): lines for path, lines in found.items()}


def test_a_sidecar_has_a_caption_a_line(pictures: Path) -> None:
    (pictures / "on_a_wall_0.txt").write_text("\ufeffone\n\n  two  \n", "utf-8")
    (pictures / "on_a_wall_1.png.txt").write_text("three")
    (pictures / "on_a_wall_2.txt").write_text("\n \n")
    assert captions(pictures) == {"0": ("one", "two"), "1": ("three",)}


def test_a_sidecar_goes_before_captions_jsonl(pictures: Path) -> None:
    (pictures / "on_a_wall_0.txt").write_text("sidecar")
    (pictures / "captions.jsonl").write_text(
        '{"file_name": "on_a_wall_0.png", "text": "listed"}\n\n'
        '{"file_name": "on_a_wall_1.png", "text": " first "}\n'
        '{"file": "on_a_wall_1.png", "caption": "second", "more": 1}\n'
    )
    assert captions(pictures) == {"0": ("sidecar",), "1": ("first", "second")}


@pytest.mark.parametrize("separator", ["\u2028", "\u0085"])
def test_only_a_newline_ends_a_line_of_captions(pictures: Path, separator: str) -> None:
    line = f'{{"file_name": "on_a_wall_0.png", "text": "one{separator}two"}}\n'
    (pictures / "captions.jsonl").write_text(line, "utf-8")
    assert captions(pictures) == {"0": (f"one{separator}two",)}


def test_a_caption_without_its_picture_is_noted(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pictures / "captions.jsonl").write_text('{"file_name": "gone.png", "text": "x"}\n')
    assert captions(pictures) == {}
    assert "captions.jsonl:1: no readable picture is called gone.png" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "{broken",
        "[]",
        '"text"',
        "{}",
        '{"file_name": "on_a_wall_1.png"}',
        '{"file_name": 3, "text": "x"}',
        '{"file_name": "on_a_wall_1.png", "text": " "}',
    ],
)
def test_a_broken_line_of_captions_is_named(pictures: Path, line: str) -> None:
    good = '{"file_name": "on_a_wall_0.png", "text": "x"}\n'
    (pictures / "captions.jsonl").write_text(good + line)
    with pytest.raises(ConfigError, match="captions.jsonl:2: "):
        captions(pictures)


@pytest.mark.parametrize("name", ["captions.jsonl", "on_a_wall_0.txt"])
def test_captions_in_another_encoding_are_refused_by_name(pictures: Path, name: str) -> None:
    (pictures / name).write_bytes("café".encode("latin-1"))
    with pytest.raises(ConfigError, match=f"{name}: is not UTF-8"):
        captions(pictures)
