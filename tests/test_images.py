"""Every kind of picture file becomes upright RGB, or an ImageError that names it."""

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detsd.images import (
    FORMATS,
    ImageError,
    View,
    decode_image,
    middle,
    part,
    prepare,
    read_image,
    strictly,
    whole,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    Image.new("RGB", (32, 16), RED).save(path, format=FORMATS[suffix])
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (32, 16))
    assert np.abs(np.subtract(pixel(image), RED)).max() < 8


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (4, 4), GREEN).save(path, format="PNG")
    assert pixel(read_image(path)) == GREEN


def test_a_gif_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(read_image(tmp_path / "a.gif")) == RED


def palette(**info: Any) -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*BLUE, *RED])
    image.info.update(info)
    return image


MODES = {
    "1": (Image.new("1", (8, 8), 1), WHITE),
    "L": (Image.new("L", (8, 8), 100), (100, 100, 100)),
    "LA, half seen": (Image.new("LA", (8, 8), (0, 128)), (127, 127, 127)),
    "P": (palette(), RED),
    "P, another color is clear": (palette(transparency=0), RED),
    "P, its color is clear": (palette(transparency=1), WHITE),
    "P, its color is half seen": (palette(transparency=bytes([0, 128])), (255, 127, 127)),
    "RGB, its color is clear": (Image.new("RGB", (8, 8), RED), WHITE),
    "RGBA, not seen": (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), WHITE),
    "RGBA, half seen": (Image.new("RGBA", (8, 8), (255, 0, 0, 128)), (255, 127, 127)),
    "I;16": (Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16)), (127, 127, 127)),
}
MODES["RGB, its color is clear"][0].info["transparency"] = RED


@pytest.mark.parametrize("name", MODES)
def test_every_mode_of_a_png_is_rgb_on_white(tmp_path: Path, name: str) -> None:
    image, wanted = MODES[name]
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.mode == "RGB"
    assert np.abs(np.subtract(pixel(read, 3, 3), wanted)).max() <= 1


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RED),
        (Image.new("I", (8, 8), 65535), WHITE),
        (Image.new("F", (8, 8), 1.0), WHITE),
        (Image.new("F", (8, 8), 127.0), (127, 127, 127)),
        (Image.fromarray(np.full((8, 8), np.nan, np.float32)), (0, 0, 0)),
        (Image.new("LAB", (8, 8), (255, 128, 128)), WHITE),
        (Image.new("YCbCr", (8, 8), (255, 128, 128)), WHITE),
    ],
    ids=["CMYK", "I", "F to 1", "F to 255", "F without numbers", "LAB", "YCbCr"],
)
def test_every_mode_of_a_tiff_is_rgb(
    tmp_path: Path, image: Image.Image, wanted: tuple[int, ...]
) -> None:
    image.save(tmp_path / "a.tiff")
    assert np.abs(np.subtract(pixel(read_image(tmp_path / "a.tiff")), wanted)).max() <= 2


# What a camera stores of a picture that is red on the left and blue on the right.
TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_a_picture_is_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((16, 48, 3), np.uint8)
    upright[:, :24], upright[:8, 24:], upright[8:, 24:] = RED, BLUE, GREEN
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation](upright)))
    stored.save(tmp_path / f"a.{suffix}", exif=exif)
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.size == (48, 16)
    corners = [pixel(image, 4, 4), pixel(image, 44, 3), pixel(image, 44, 12)]
    assert [int(np.argmax(corner)) for corner in corners] == [0, 2, 1]


def png(width: int, height: int) -> bytes:
    """Return a picture of that size; its pixels are missing."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"not a picture, but text\n" * 20, "is none of BMP, GIF, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is none of"),
        (png(20_000, 20_000), "decompression bomb"),
        (png(10_000, 10_000), "decompression bomb"),
        (png(10, 10), "cannot be read"),
    ],
    ids=["empty", "text", "postscript", "bomb", "small bomb", "no pixels"],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=said) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")


JPEGS: tuple[dict[str, Any], ...] = (
    {},
    {"progressive": True},
    {"subsampling": 0, "restart_marker_rows": 1},
)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("way", JPEGS, ids=str)
def test_a_rough_look_finds_wrong_what_a_whole_one_does(
    tmp_path: Path, mode: str, way: dict[str, Any]
) -> None:
    path, drawn = tmp_path / "a.jpg", random.Random(7)
    Image.fromarray(NOISE).resize((160, 120)).convert(mode).save(path, **way)
    content = path.read_bytes()
    assert decode_image(path, roughly=True).size == (20, 15)
    wrong = []
    for number in range(40):
        damaged = bytearray(content)
        if number % 2:
            del damaged[drawn.randrange(len(content)) :]
        else:
            for _ in range(drawn.choice((1, 3, 30))):
                damaged[drawn.randrange(len(content))] = drawn.randrange(256)
        path.write_bytes(damaged)
        problems = []
        for roughly in (False, True):
            try:
                with strictly():
                    decode_image(path, roughly=roughly)
                problems.append("")
            except ImageError as error:
                problems.append(str(error))
        assert problems[0] == problems[1]
        wrong.append(bool(problems[0]))
    assert 10 < sum(wrong) < 40


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "gif", "bmp"])
def test_a_truncated_picture_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(NOISE).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=f"cut.{suffix}: "):
        read_image(path)


@pytest.mark.parametrize("name", ["no such.png", "."])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "gif", "bmp"])
def test_a_damaged_file_is_a_picture_or_an_image_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"odd.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(path, **({"exif": exif} if suffix not in ("gif", "bmp") else {}))
    good = path.read_bytes()
    draw = random.Random(suffix)
    refused = 0
    for _ in range(40):
        data = bytearray(good)
        for _ in range(draw.randint(1, 12)):
            reach = draw.choice([40, 200, len(data)])
            data[draw.randrange(reach) % len(data)] = draw.randrange(256)
        path.write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
        try:
            assert read_image(path).mode == "RGB"
        except ImageError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused


def test_the_middle_is_the_largest_square() -> None:
    assert middle(Image.new("RGB", (30, 20))) == View(5, 0, 25, 20)
    assert middle(Image.new("RGB", (20, 31))) == View(0, 5, 20, 25)
    assert whole(Image.new("RGB", (30, 20))) == View(0, 0, 30, 20)


def test_a_part_lies_where_the_two_numbers_say() -> None:
    view = View(10, 0, 30, 20)
    assert part(view, 0.5, 0, 0) == View(10, 0, 20, 10)
    assert part(view, 0.5, 1, 1) == View(20, 10, 30, 20)
    assert part(view, 0.5, 0.5, 0) == View(15, 0, 25, 10)
    assert part(view, 1, 0.3, 0.7) == view


def test_pixels_go_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (8, 8), (0, 255, 51))
    pixels = prepare(image, whole(image), 8, "bicubic", False).pixels
    assert pixels.shape == (3, 8, 8)
    assert pixels.is_contiguous()
    assert torch.allclose(pixels[:, 4, 4], torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_a_view_of_the_final_size_keeps_every_pixel(interpolation: str) -> None:
    image = Image.fromarray(NOISE)
    pixels = prepare(image, View(3, 5, 19, 21), 16, interpolation, False).pixels
    wanted = torch.from_numpy(NOISE[5:21, 3:19]).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(pixels, wanted)


def test_a_flip_is_the_exact_mirror() -> None:
    image = Image.fromarray(NOISE)
    plain, flipped = (prepare(image, middle(image), 13, "bicubic", flip) for flip in (False, True))
    assert torch.equal(flipped.pixels, plain.pixels.flip(-1))
    assert not torch.equal(flipped.pixels, plain.pixels)


def test_the_origin_is_the_first_size_and_the_corner_in_final_pixels() -> None:
    image = Image.new("RGB", (40, 20))
    assert prepare(image, middle(image), 10, "bicubic", False).origin == (20, 40, 0, 5)
    assert prepare(image, View(0, 4, 16, 20), 8, "bicubic", False).origin == (20, 40, 2, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2)])
def test_a_sliver_can_be_prepared(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, RED)
    view = part(middle(image), 0.8, 1, 1)
    assert prepare(image, view, 8, "bicubic", True).pixels[0].eq(1).all()
