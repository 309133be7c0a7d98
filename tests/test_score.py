import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from detsd.score import Album, References, ScoreError, Seen, likeness, load_scorer, quality

CPU = torch.device("cpu")
HALF = References(0.5, 0.5)


def colours(*names):
    return [Image.new("RGB", (48, 40), name) for name in names]


def seen(*rows):
    return Seen(
        torch.nn.functional.normalize(torch.tensor(rows), dim=-1), torch.empty(len(rows), 0)
    )


@pytest.fixture(scope="module")
def scorer(scorer_folder):
    return load_scorer(str(scorer_folder), None, CPU)


def test_pictures_and_texts_become_rows_of_length_one(scorer):
    pictures, texts = scorer.see(colours("red", "green", "blue")).clip, scorer.read(["a", "a dog"])
    assert pictures.shape[0] == 3 and texts.shape == (2, pictures.shape[1])
    assert torch.allclose(torch.cat([pictures, texts]).norm(dim=1), torch.ones(5))


def test_a_row_does_not_depend_on_its_neighbours(scorer):
    alone = scorer.see(colours("teal")).clip
    beside = scorer.see(colours("red", "teal", *["blue"] * 40)).clip
    assert torch.allclose(alone[0], beside[1], atol=1e-5)
    long = "a photo of a very large network with many circles " * 20
    assert torch.allclose(scorer.read(["red"])[0], scorer.read([long, "red"])[1], atol=1e-5)


def test_the_training_pictures_themselves_are_faithful_copies(scorer):
    real = scorer.see(colours("red", "green", "blue"))
    metrics = scorer.scores([Album("red", real, real)], References(likeness(real.clip), 1.0))
    assert metrics["copying"] == pytest.approx(1, abs=1e-5)
    assert metrics["fidelity"] >= likeness(real.clip)  # each is compared with itself, too
    assert metrics["diversity"] == pytest.approx(1 - likeness(real.clip), abs=1e-5)


def test_each_metric_measures_what_its_name_says(scorer, monkeypatch):
    monkeypatch.setattr(scorer, "read", lambda texts: seen([1.0, 0, 0]).clip)
    real = seen([1.0, 0, 0], [1, 0.2, 0])

    def rate(*rows):
        return scorer.scores([Album("red", seen(*rows), real)], HALF)

    near, far, same = (
        rate([1.0, 0, 0.1], [1, 0.3, 0]),
        rate([0.0, 0, 1], [0, 0.1, 1]),
        rate([1.0, 0.5, 0], [1, 0.5, 0]),
    )
    assert all(
        near[name] > far[name] for name in ("fidelity", "prompt_adherence", "copying", "quality")
    )
    assert same["diversity"] == pytest.approx(0, abs=1e-6)
    assert near["diversity"] > 0.01


@pytest.mark.parametrize(
    ("fidelity", "adherence", "wanted"),
    [(0.5, 0.5, 1), (0.25, 0.5, 2 / 3), (0.5, 0.25, 2 / 3), (0, 0.5, 0), (-1, 9, 0), (9, 9, 1)],
)
def test_quality_is_the_harmonic_mean_of_shares(fidelity, adherence, wanted):
    assert quality(fidelity, adherence, HALF) == pytest.approx(wanted)


def test_quality_has_no_share_of_a_reference_that_is_none():
    assert quality(0.5, 0.5, References(0.5, -0.1)) == 0


def test_likeness_leaves_out_each_picture_s_likeness_to_itself():
    rows = seen([1.0, 0], [1.0, 0], [0.0, 1])
    assert likeness(rows.clip) == pytest.approx(1 / 3)
    assert likeness(rows.clip[:1]) == 1


def test_dino_adds_a_fidelity_of_its_own(scorer_folder, dino_folder):
    scorer = load_scorer(str(scorer_folder), str(dino_folder), CPU)
    real, other = scorer.see(colours("red", "orange")), scorer.see(colours("blue"))
    metrics = scorer.scores([Album("red", other, real)], HALF)
    assert metrics["dino_fidelity"] == pytest.approx(float((other.dino @ real.dino.T).mean()))
    assert "dino_fidelity" not in load_scorer(str(scorer_folder), None, CPU).scores(
        [Album("red", other, real)], HALF
    )


def test_a_model_that_is_none_is_an_error_that_names_the_key(tmp_path, scorer_folder):
    with pytest.raises(ScoreError, match=r"inference.scorer_name_or_path: .* could not be loaded"):
        load_scorer(str(tmp_path), None, CPU)
    with pytest.raises(ScoreError, match=r"inference.dino_name_or_path"):
        load_scorer(str(scorer_folder), str(tmp_path), CPU)


def test_a_model_of_another_kind_is_refused(scorer_folder, dino_folder, tmp_path):
    """Or it were filled up with random weights, and its scores looked as good as any."""
    shutil.copytree(scorer_folder, tmp_path / "clip")
    tensors = load_file(tmp_path / "clip/model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "vision_model" not in name}
    save_file(kept, tmp_path / "clip/model.safetensors", {"format": "pt"})
    with pytest.raises(ScoreError, match=r"is no CLIPModel: it lacks \d+ weights"):
        load_scorer(str(tmp_path / "clip"), None, CPU)


def test_dino_without_a_pooler_sees_the_same_each_time(scorer_folder, tmp_path):
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    first, second = (
        load_scorer(str(scorer_folder), str(tmp_path), CPU).see(colours("red")) for _ in range(2)
    )
    assert torch.equal(first.dino, second.dino)
