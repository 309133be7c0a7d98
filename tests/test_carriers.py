"""Pictures that carry a concept: read as the web UI reads them, and refused in a line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from detsd import carriers
from detsd.carriers import is_picture, read_picture
from detsd.contents import read_content
from tests import carried

ROWS = torch.rand(2, 768, generator=torch.Generator().manual_seed(0))
CONTENT = {"string_to_param": {"*": ROWS}, "name": "cat", "step": 3}


def with_text(path: Path, key: str, text: str) -> Path:
    texts = PngImagePlugin.PngInfo()
    texts.add_text(key, text)
    Image.new("RGB", (64, 64), "teal").save(path, pnginfo=texts)
    return path


def assert_read(path: Path) -> None:
    found = read_picture(path)
    assert (found["name"], found["step"]) == ("cat", 3)
    assert torch.equal(found["string_to_param"]["*"], ROWS)


def test_a_text_is_read(tmp_path: Path) -> None:
    assert_read(with_text(tmp_path / "a.png", "sd-ti-embedding", carried.as_text(CONTENT)))


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
@pytest.mark.parametrize("height", [64, 333])
def test_pixels_are_read(tmp_path: Path, name: str, height: int) -> None:
    carried.hide(CONTENT, tmp_path / name, height)
    assert_read(tmp_path / name)
    assert is_picture((tmp_path / name).read_bytes()[:16])


def test_a_black_frame_around_the_picture_is_none_of_it(tmp_path: Path) -> None:
    carried.hide(CONTENT, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        framed = np.pad(np.asarray(image), ((5, 9), (3, 1), (0, 0)))
    Image.fromarray(framed).save(tmp_path / "framed.png")
    assert_read(tmp_path / "framed.png")


@pytest.mark.parametrize("color", ["black", "teal", (7, 16, 32)])
def test_a_picture_that_carries_nothing_is_refused(tmp_path: Path, color: str) -> None:
    Image.new("RGB", (64, 48), color).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is a picture, and no concept can be read from it"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("text", ["", "%%%", "W10=", "e30", carried.as_text(CONTENT)[:-9]])
def test_a_damaged_text_is_refused(tmp_path: Path, text: str) -> None:
    path = with_text(tmp_path / "a.png", "sd-ti-embedding", text)
    with pytest.raises(ValueError, match="is a picture"):
        read_picture(path)


def test_a_damaged_block_is_refused(tmp_path: Path) -> None:
    carried.hide(CONTENT, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.crop((4, 0, image.width, image.height)).save(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="what it carries is damaged"):
        read_picture(tmp_path / "cut.png")


def test_a_picture_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    carried.hide({"string_to_param": {}}, tmp_path / "a.webp")
    with (tmp_path / "a.webp").open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="has 1074 MB"):
        read_content(tmp_path / "a.webp", "bundle")


def test_an_enormous_picture_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch) -> None:
    carried.hide(CONTENT, tmp_path / "a.png")
    monkeypatch.setattr(carriers, "MOST_PIXELS", 128 * 100)
    with pytest.raises(ValueError, match=r"is a picture of \d+ × 128 pixels"):
        read_picture(tmp_path / "a.png")
