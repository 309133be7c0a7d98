"""A concept's length beside its base model's vocabulary, by the model's files alone."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detsd.concepts import Concept, read_concepts
from detsd.config import TrainingConfig, read
from detsd.norms import Norms, norms_beside, norms_of
from detsd.vectors import Vectors


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_ratio_is_what_training_reports(load, models, tmp_path, family):
    model = load(family)
    start = model.text.initial_concept("det-logo", "brain logo, sharp lines", None)
    for number, rows in enumerate(start.vectors.values(), 2):
        rows *= number  # so that the encoders have ratios of their own
    part = Vectors(read(TrainingConfig, {}), [start], model, Norms(model.text.tables()))
    part.export(tmp_path, {})
    (concept,) = read_concepts(tmp_path / "det-logo.safetensors")
    wanted = part.metrics()["embedding_norm_ratio"]
    assert norms_of(models[family]).ratio(concept) == pytest.approx(wanted, rel=1e-5)
    assert wanted > 1.5


def test_a_checkpoints_model_has_a_vocabulary_too(load, models, tmp_path):
    shutil.copytree(models["sd1"], tmp_path / "step-000500" / "export")
    assert norms_of(tmp_path / "step-000500").means == norms_of(models["sd1"]).means


def test_words_of_another_family_are_not_compared(models):
    norms = norms_of(models["sdxl"])
    assert norms.ratio(Concept("a", {"clip_l": torch.ones(2, 32)})) is None
    assert (
        norms.ratio(Concept("a", {"clip_l": torch.ones(2, 32), "clip_g": torch.ones(2, 32)}))
        is None
    )
    assert norms.ratio(Concept("a", {"clip_l": torch.ones(2, 32), "clip_g": torch.ones(2, 48)})) > 0


def test_the_weights_in_full_come_before_a_variant(models, tmp_path):
    folder = shutil.copytree(models["sd1"], tmp_path / "model")
    encoder = folder / "text_encoder"
    save_file({"token_embedding.weight": torch.ones(4, 8)}, encoder / "model.fp16.safetensors")
    assert norms_of(folder).widths == {"clip_l": 32}
    (encoder / "model.safetensors").unlink()
    norms_of.cache_clear()
    assert norms_of(folder).widths == {"clip_l": 8}


def test_where_there_is_no_vocabulary_there_is_nothing_to_say(models, tmp_path):
    assert norms_of(tmp_path) is None and norms_of(tmp_path / "none") is None
    folder = shutil.copytree(models["sdxl"], tmp_path / "half")
    (folder / "text_encoder_2" / "model.safetensors").write_bytes(b"damaged")
    assert norms_of(folder) is None


def test_a_model_that_is_in_no_folder_is_asked_for_its_tables(load, models):
    tables = load("sdxl").text.tables()
    of_files, of_tables = norms_beside(models["sdxl"], tables), norms_beside(Path("a/hub"), tables)
    assert of_tables.means == of_files.means
    assert of_tables.medians == of_files.medians


def test_of_a_model_that_is_loaded_now_the_files_are_read_now(load, models, tmp_path):
    folder = shutil.copytree(models["sd1"], tmp_path / "model")
    tables = load("sd1").text.tables()
    before = norms_beside(folder, tables)
    file = folder / "text_encoder" / "model.safetensors"
    save_file({name: 2 * value for name, value in load_file(file).items()}, file)
    assert norms_beside(folder, tables).medians["clip_l"] == 2 * before.medians["clip_l"]
