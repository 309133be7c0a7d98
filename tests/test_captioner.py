"""What tiny BLIPs say of pictures, and what is said of a model that is none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from detsd.captioner import CaptionError, load_captioner
from tests.tiny_captioner import KINDS, build, say

BEGIN = "A photo of {}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("captioners")
    return {kind: build(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def noise() -> list[Image.Image]:
    """Pictures of different sizes."""
    numbers = [
        np.random.default_rng(seed).integers(0, 256, (20, 24 + seed, 3)) for seed in range(4)
    ]
    return [Image.fromarray(one.astype(np.uint8)) for one in numbers]


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with random weights seldom comes to an end."""
    monkeypatch.setattr("detsd.captioner.LONGEST", 12)


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path):
    """Return a copy of a model, to be broken."""

    def copy_of(kind: str) -> Path:
        return Path(shutil.copytree(folders[kind], tmp_path / "copy"))

    return copy_of


def change(path: Path, **keys: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_the_same_words_each_time_and_beside_any_other(folders, noise, kind):
    captioner = load_captioner(str(folders[kind]), "cpu")
    captions = captioner.say(noise)
    assert all(captions) and len(set(captions)) > 1
    assert captions == captioner.say(noise)
    assert captions == [captioner.say([one])[0] for one in noise]
    assert captioner.say([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_goes_on_from_the_beginning_as_it_was_written(folders, noise, kind):
    captions = load_captioner(str(folders[kind]), "cpu", f" {BEGIN} ").say(noise)
    rests = [caption.removeprefix(BEGIN) for caption in captions]
    assert all(rest and rest != caption for rest, caption in zip(rests, captions, strict=True))
    assert not any("photo" in rest for rest in rests)


@pytest.mark.parametrize("begin", ["", BEGIN])
def test_the_beginning_alone_is_no_caption(folders, noise, begin):
    captioner = load_captioner(str(folders["blip"]), "cpu", begin)
    say(captioner._model, [captioner._processor.tokenizer.sep_token_id])
    assert captioner.say(noise) == [""] * len(noise)


def test_files_that_do_not_say_how_many_tokens_a_picture_has_let_it_be_seen(folders, noise, copy):
    old = copy("blip-2 with OPT")
    change(old / "processor_config.json", num_query_tokens=None)
    captions = load_captioner(str(old), "cpu", BEGIN).say(noise)
    assert len(set(captions)) > 1
    assert captions == load_captioner(str(folders["blip-2 with OPT"]), "cpu", BEGIN).say(noise)


def test_a_caption_is_one_line(folders, noise):
    captioner = load_captioner(str(folders["blip-2 with OPT"]), "cpu")
    tokenizer = captioner._processor.tokenizer
    ids = tokenizer("a\ncat\n").input_ids
    assert "\n" in tokenizer.decode(ids) and captioner._decode([ids]) == ["a cat"]


def refusal(name: object, device: str = "cpu") -> str:
    with pytest.raises(CaptionError) as refused:
        load_captioner(str(name), device)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_model_of_another_kind_is_refused(models, scorer_folder, tmp_path, copy):
    wanted = "a BLIP or BLIP-2 that writes captions is wanted, as Salesforce/blip-image-capt"
    assert f"is CLIPModel; {wanted}" in refusal(scorer_folder)
    for folder in (models["sd1"], tmp_path, tmp_path / "nowhere"):
        said = refusal(folder)
        assert f"--model: {folder} could not be loaded: " in said and wanted in said
    answers = copy("blip")
    change(answers / "config.json", architectures=["BlipForQuestionAnswering"])
    assert f"is BlipForQuestionAnswering; {wanted}" in refusal(answers)


def test_a_model_with_parts_missing_is_refused(copy):
    folder = copy("blip")
    weights = load_file(folder / "model.safetensors")
    weights.pop(gone := "vision_model.post_layernorm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"lacks 1 weights, {gone} among them" in refusal(folder)
    (folder / "model.safetensors").write_bytes(b"cut")
    assert "could not be loaded" in refusal(folder)


def test_a_tokenizer_without_its_files_is_noticed(copy):
    folder = copy("blip")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "its tokenizer has 5 tokens" in refusal(folder)


def test_a_token_for_pictures_that_is_another_to_the_tokenizer_is_noticed(copy):
    folder = copy("blip-2 with OPT")
    change(folder / "config.json", image_token_index=None)
    assert "the token for pictures is None in config.json" in refusal(folder)


@pytest.mark.parametrize("device", ["gpu", "mps:7"])
def test_a_device_that_is_not_there_is_named(folders, device):
    assert refusal(folders["blip"], device).startswith("--device: ")
