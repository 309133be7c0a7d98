"""From folders to examples, and from examples to latents."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detsd.config import ConceptsConfig, ConfigError, read
from detsd.data import cache_latents, read_examples, stream
from detsd.model import StableDiffusion


def concepts(*folders: Path, **keys: Any) -> ConceptsConfig:
    count = len(folders)
    entries: dict[str, Any] = {
        "concept_strs": [f"det-{number}" for number in range(count)],
        "initializer_strs": ["brain logo"] * count,
        "learnable_properties": ["object"] * count,
        "img_dirs": [str(folder) for folder in folders],
    }
    return read(ConceptsConfig, {**entries, **keys})


def test_the_pictures_come_sorted_folder_by_folder(pictures: Path, tmp_path: Path) -> None:
    other = shutil.copytree(pictures, tmp_path / "another")
    examples = read_examples(concepts(pictures, other))
    assert [example.image for example in examples] == [
        folder / f"on_a_wall_{number}.png" for folder in (pictures, other) for number in range(5)
    ]
    assert {example.weight for example in examples} == {1.0}
    assert "a photo of a det-0" in examples[0].captions
    assert "a photo of a det-1" in examples[5].captions


def test_what_is_no_picture_is_passed_over_by_name(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pictures / "notes.md").write_text("text")
    (pictures / "folder").mkdir()
    (pictures / "folder.png").mkdir()
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    (pictures / ".hidden").write_text("not worth a word")
    (pictures / "empty.png").touch()
    (pictures / "cut.png").write_bytes((pictures / "on_a_wall_0.png").read_bytes()[:500])
    (pictures / "text.jpg").write_text("text")
    assert len(read_examples(concepts(pictures))) == 5
    warned = [record.getMessage() for record in caplog.records]
    names = ["notes.md", "folder", "folder.png", "gone.png", "empty.png", "cut.png", "text.jpg"]
    assert len(warned) == len(names)
    for name in names:
        assert any(f"{pictures / name} is passed" in w or f"{name}: " in w for w in warned), name


def test_captions_beside_the_pictures_are_no_odd_files(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pictures / "on_a_wall_0.txt").write_text("{} at noon")
    (pictures / "on_a_wall_1.png.txt").write_text("{} at night")
    (pictures / "captions.jsonl").write_text('{"file_name": "on_a_wall_2.png", "text": "my {}"}')
    examples = read_examples(concepts(pictures))
    assert not caplog.records
    captions = [example.captions for example in examples]
    assert captions[:3] == [("det-0 at noon",), ("det-0 at night",), ("my det-0",)]
    assert len(captions[3]) > 1


def test_a_folder_with_none_left_is_an_error_that_names_it(pictures: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("bare", "broken")]
    for folder in folders:
        folder.mkdir()
    (folders[1] / "a.png").touch()
    with pytest.raises(ConfigError) as caught:
        read_examples(concepts(folders[0], pictures, folders[1]))
    assert [f"{folder} holds no picture" in str(caught.value) for folder in folders] == [True, True]
    assert str(pictures) not in str(caught.value)


def test_a_second_concept_finds_the_templates_as_they_were(pictures: Path) -> None:
    config = concepts(pictures, pictures, num_blank_prompts=2, num_a_prompts=1)
    first = [example.captions for example in read_examples(config)]
    again = [example.captions for example in read_examples(config)]
    assert first == again
    assert len(first[0]) == len(first[5])
    assert (first[5].count("det-1"), first[5].count("a det-1")) == (2, 1)


@pytest.fixture
def encode(load: Callable[..., StableDiffusion]) -> Callable[[torch.Tensor], Any]:
    return load("sd1").encode_images


@pytest.mark.parametrize(
    ("keys", "variants"),
    [
        ({}, 1),
        ({"flip_p": 0.5}, 2),
        ({"crop_scale": [0.5, 0.9], "crop_variants": 3}, 3),
        ({"crop_scale": [0.5, 0.9], "crop_variants": 3, "flip_p": 0.5}, 6),
    ],
)
def test_every_variant_of_every_example_is_kept(
    pictures: Path, encode: Any, keys: dict[str, Any], variants: int
) -> None:
    config = concepts(pictures, **keys)
    shapes: list[torch.Size] = []

    def watched(pixels: torch.Tensor) -> Any:
        shapes.append(pixels.shape)
        return encode(pixels)

    latents = cache_latents(read_examples(config), watched, config, 16)
    assert latents.mean.shape == latents.std.shape == (5, variants, 4, 8, 8)
    assert latents.origins.shape == (5, variants, 4)
    assert shapes == [(1, 3, 16, 16)] * 5 * variants
    assert len(latents.mean.flatten(0, 1).flatten(1).unique(dim=0)) == len(shapes)


def test_the_second_half_of_the_variants_mirrors_the_first(pictures: Path) -> None:
    config = concepts(pictures, flip_p=0.1, crop_scale=[0.5, 1], crop_variants=3)
    latents = cache_latents(read_examples(config), lambda pixels: (pixels, pixels), config, 16)
    assert torch.equal(latents.mean[:, 3:], latents.mean[:, :3].flip(-1))


def test_the_crops_of_a_picture_differ_and_are_the_same_in_every_run(pictures: Path) -> None:
    config = concepts(pictures, crop_scale=[0.5, 0.6], crop_variants=4)
    examples = read_examples(config)
    one, same = (
        cache_latents(examples, lambda pixels: (pixels, pixels), config, 16) for _ in range(2)
    )
    assert torch.equal(one.mean, same.mean)
    assert len(one.mean[0].flatten(1).unique(dim=0)) == 4


def test_the_result_does_not_depend_on_who_deals_the_work(pictures: Path, encode: Any) -> None:
    def backwards(work: Callable[[int], Any], places: Sequence[int]) -> list[Any]:
        return [work(place) for place in reversed(places)][::-1]

    config = concepts(pictures, flip_p=0.5, crop_scale=[0.8, 1], crop_variants=2)
    examples = read_examples(config)
    plain = cache_latents(examples, encode, config, 16)
    dealt = cache_latents(examples, encode, config, 16, backwards)
    assert all(torch.equal(a, b) for a, b in zip(plain, dealt, strict=True))


def test_without_a_center_crop_the_whole_picture_is_squeezed(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 16), "red")
    image.paste("blue", (0, 0, 6, 16))
    image.save(tmp_path / "a.png")
    left = {}
    for center_crop in (True, False):
        config = concepts(tmp_path, center_crop=center_crop)
        pixels = cache_latents(read_examples(config), lambda p: (p, p), config, 16).mean
        left[center_crop] = pixels[0, 0, :, 8, 0].round().tolist()
    assert left == {True: [1, -1, -1], False: [-1, -1, 1]}


def numbers(*where: Any) -> list[float]:
    return torch.rand(8, generator=stream(*where)).tolist()


def test_a_stream_is_the_same_whenever_it_is_drawn() -> None:
    first = numbers(1, 2, "noise")
    torch.manual_seed(5)
    numbers(1, 3, "noise")
    assert numbers(1, 2, "noise") == first


def test_streams_differ_by_seed_slot_and_purpose() -> None:
    places = [(1, 2, "noise"), (2, 1, "noise"), (1, 3, "noise"), (1, 2, "flip"), (12, 2, "noise")]
    places += [(2**63 - 1, 2**40, "noise"), (1, 22, "noise")]
    assert len({tuple(numbers(*place)) for place in places}) == len(places)


def test_drawing_from_a_stream_leaves_torchs_own_numbers_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    numbers(1, 2, "noise")
    assert torch.equal(torch.get_rng_state(), before)
