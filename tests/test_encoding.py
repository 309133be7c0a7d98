"""Pictures that were encoded once: the same latents to the bit, and for nothing else than these."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detsd.config import ConceptsConfig, FinetuneConfig, read
from detsd.data import Latents, read_examples
from detsd.encoding import encode_examples
from detsd.model import StableDiffusion
from tests.trials import CLASS, LORA, changed, exports, run, run_together, same

CROPS = {"crop_scale": [0.5, 0.9], "crop_variants": 2, "flip_p": 0.5}


@pytest.fixture
def model(load: Callable[..., StableDiffusion]) -> StableDiffusion:
    return load("sd1")


@pytest.fixture
def concepts(pictures: Path, tmp_path: Path) -> Callable[..., ConceptsConfig]:
    def configure(**keys: Any) -> ConceptsConfig:
        entries = {"img_dirs": str(pictures), "instance_prompt": "a picture"}
        return read(ConceptsConfig, {**entries, "latents_dir": str(tmp_path / "kept"), **keys})

    return configure


def encoded(model: StableDiffusion, config: ConceptsConfig, size: int = 16) -> tuple[Latents, int]:
    """Return the latents, and how many pictures the VAE has seen for them."""
    seen = []

    def watched(pixels: torch.Tensor) -> Any:
        seen.append(pixels)
        return StableDiffusion.encode_images(model, pixels)

    model.encode_images = watched
    return encode_examples(model, read_examples(config), config, size), len(seen)


def equal(one: Latents, other: Latents) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("keys", [{}, CROPS], ids=["plain", "crops"])
def test_what_another_run_has_encoded_is_the_same_to_the_bit(model, load, concepts, caplog, keys):
    caplog.set_level(logging.INFO)
    config, variants = concepts(**keys), 4 if keys else 1
    plain, _ = encoded(model, concepts(**keys, latents_dir="off"))
    assert not config.latents_dir.exists()
    assert not caplog.records
    first, made = encoded(model, config)
    assert made == 5 * variants
    again, made_again = encoded(load("sd1"), config)
    assert made_again == 0
    assert equal(plain, first) and equal(plain, again)
    total = 5 * variants
    assert caplog.messages == [
        f"5 pictures: {found} of {total} sets of latents found in {config.latents_dir}"
        for found in (0, total)
    ]


def test_the_vae_sleeps_on_where_all_is_there(model, concepts):
    awake = []
    plain = model.vae_awake
    model.vae_awake = lambda: awake.append(1) or plain()
    encoded(model, concepts())
    assert len(awake) == 1  # once for all
    encoded(model, concepts())
    assert len(awake) == 1
    encoded(model, concepts(flip_p=0.5))
    assert len(awake) == 2


def nudge(part: str) -> Callable[[StableDiffusion], None]:
    def change(model: StableDiffusion) -> None:
        with torch.no_grad():
            dict(model.vae.named_parameters())[part].view(-1)[-1] += 1e-4

    return change


OTHER_MODELS = {
    "a weight": nudge("encoder.conv_out.weight"),
    "the last weight": nudge("quant_conv.bias"),
    "the scale": lambda model: model.vae.register_to_config(scaling_factor=0.5),
    "the order of weights": lambda model: model.vae.to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("change", OTHER_MODELS.values(), ids=list(OTHER_MODELS))
def test_another_vae_encodes_anew(model, load, concepts, change):
    encoded(model, concepts())
    other = load("sd1")
    change(other)
    latents, made = encoded(other, concepts())
    assert made == 5
    assert equal(latents, encoded(other, concepts(latents_dir="off"))[0])


def test_another_decoder_or_unet_or_place_makes_the_same_latents(model, load, concepts):
    encoded(model, concepts())
    other = load("sd1")
    nudge("decoder.conv_out.weight")(other)
    other.vae.register_to_config(_name_or_path="elsewhere")
    with torch.no_grad():
        other.unet.conv_in.weight += 1
    assert encoded(other, concepts())[1] == 0


@pytest.mark.parametrize(
    ("keys", "made"),
    [
        ({"center_crop": False}, 5),
        ({"interpolation": "nearest"}, 5),
        ({"flip_p": 0.5}, 5),  # the mirror images alone
        ({"crop_scale": [0.5, 0.9], "crop_variants": 2}, 10),
    ],
)
def test_what_is_prepared_in_another_way_is_encoded_anew(model, concepts, keys, made):
    encoded(model, concepts())
    latents, seen = encoded(model, concepts(**keys))
    assert seen == made
    assert equal(latents, encoded(model, concepts(**keys, latents_dir="off"))[0])


def test_another_size_is_encoded_anew(model, concepts):
    encoded(model, concepts())
    assert encoded(model, concepts(), size=32)[1] == 5


def test_a_picture_is_known_by_what_it_shows_and_not_by_its_name(model, concepts, pictures):
    encoded(model, concepts())
    (pictures / "on_a_wall_0.png").rename(pictures / "the_last.png")
    (pictures / "on_a_wall_1.png").unlink()
    assert encoded(model, concepts())[1] == 0
    with Image.open(pictures / "on_a_wall_2.png") as image:
        pixels = np.array(image)
    pixels[10, 10] ^= 255
    Image.fromarray(pixels).save(pictures / "on_a_wall_2.png")
    latents, made = encoded(model, concepts())
    assert made == 1
    assert equal(latents, encoded(model, concepts(latents_dir="off"))[0])


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_on_more_threads_all_is_encoded_anew(model, concepts, request):
    encoded(model, concepts())
    request.getfixturevalue("two_threads")
    assert encoded(model, concepts())[1] == 5


def kept(hparams: dict[str, Any], folder: Path) -> dict[str, Any]:
    return changed(hparams, concepts__latents_dir=str(folder))


def test_a_run_ends_the_same_whatever_is_kept_and_wherever(tmp_path, hparams, caplog):
    caplog.set_level(logging.INFO)
    hparams["concepts"] |= CROPS
    plain = run(tmp_path / "plain", changed(hparams, concepts__latents_dir="off"))
    mine = kept(hparams, tmp_path / "kept")
    (tmp_path / "file").touch()
    runs = [run(tmp_path / f"run {number}", mine) for number in range(2)]
    assert "5 pictures: 20 of 20 sets" in caplog.text
    runs.append(run(run(tmp_path / "stopped", mine, stop_at=3), mine))
    runs.append(run(tmp_path / "nowhere", kept(hparams, tmp_path / "file")))
    assert "file takes no latents (" in caplog.text
    for other in runs:
        assert same(other, plain)
        assert exports(other) == exports(plain)


def test_processes_agree_where_one_finds_and_the_other_does_not(tmp_path, hparams):
    mine = kept(hparams, tmp_path / "kept")
    plain = run_together(tmp_path / "plain", changed(hparams, concepts__latents_dir="off"))
    run_together(tmp_path / "first", mine)
    entries = sorted((tmp_path / "kept").iterdir())
    assert len(entries) == 5
    for damaged in entries[:2]:
        damaged.write_bytes(b"")
    entries[2].unlink()
    assert exports(run_together(tmp_path / "second", mine)) == exports(plain)
    assert sorted((tmp_path / "kept").iterdir()) == entries


def test_pictures_of_the_class_are_kept_too(tmp_path, make, pictures, caplog):
    caplog.set_level(logging.INFO)
    classes = shutil.copytree(pictures, tmp_path / "classes")
    (classes / "on_a_wall_4.png").unlink()
    hparams = make(LORA, {**CLASS, "class_dir": str(classes)})
    first = run(tmp_path / "first", kept(hparams, tmp_path / "kept"))
    again = run(tmp_path / "again", kept(hparams, tmp_path / "kept"))
    found = [line for line in caplog.messages if "sets of latents" in line]
    # The class's are those of the thing here.
    assert [line.partition(" sets")[0] for line in found] == [
        "4 pictures: 0 of 4",
        "5 pictures: 4 of 5",
        "4 pictures: 4 of 4",
        "5 pictures: 5 of 5",
    ]
    assert same(first, again)


@pytest.mark.parametrize("written", [False, "off"])
def test_the_folder_can_be_switched_off(hparams, written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    off = changed(hparams, concepts__latents_dir=written)
    assert read(FinetuneConfig, off).concepts.latents_dir == "off"
    run(tmp_path / "off", off)
    assert not (tmp_path / "home").exists()
    run(tmp_path / "on", hparams)
    assert len(list((tmp_path / "home/.cache/detsd/latents").iterdir())) == 5
