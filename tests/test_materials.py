"""What a grid's images are made with, by its YAML: checkpoints of every kind, each in its place."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from detsd.adapters import FILE, read_adapter, write_adapter
from detsd.concepts import ConceptError, write_concepts
from detsd.config import ConfigError, GridConfig, read
from detsd.materials import read_stock
from detsd.sweep import wanted_images
from tests import carried
from tests.made_up import adapter
from tests.test_model import made_up

UUID = "0f5bd5a2-7c1c-4a57-9d0e-2f6f3a1b6c55"


@pytest.fixture
def here(tmp_path, load, monkeypatch):
    """A folder with a checkpoint of each kind: words, style, pivotal, whole, whole-2."""
    model = load("sd1")
    monkeypatch.chdir(tmp_path)
    write_concepts(tmp_path / "words" / "export", [made_up(model, "det-logo", 2)])
    write_adapter(tmp_path / "style" / "export" / FILE, adapter(model, words="attn1"))
    write_adapter(tmp_path / "pivotal" / "export" / FILE, adapter(model, words="attn2"))
    write_concepts(tmp_path / "pivotal" / "export", [made_up(model, "det-logo", 3)])
    for name in ("whole", "whole-2"):
        model.pipeline().save_pretrained(tmp_path / name / "export")
    return tmp_path


@pytest.fixture
def stock(models):
    """Return the stock of a grid, and its images."""

    def stock(shared=(), base=models["sd1"], **sweep):
        hparams = {
            "pipeline": {"pretrained_model_name_or_path": str(base)},
            "local_checkpoint_paths": list(shared),
            "sweep": {"prompt": "a det-logo", "seed": 1, **sweep},
        }
        config = read(GridConfig, hparams)
        return read_stock(config), wanted_images(config, 1)

    return stock


def counted(materials, one):
    return [(change.source, scale) for change, scale in materials.weighed(one)]


def test_files_of_other_tools_are_taken_as_they_are(here, stock):
    rows = torch.rand(2, 32)
    torch.save({"string_to_param": {"*": rows}, "name": "det-logo"}, here / "any.pt")
    save_file({"emb_params": rows}, here / "cat toy.safetensors")
    carried.hide({"string_to_param": {"*": rows}, "name": "a dog"}, here / "a.webp")
    style = {"bundle_emb.<sky>.string_to_param.*": rows}
    write_adapter(here / "own.safetensors", read_adapter(here / "style"))
    save_file({**load_file(here / "own.safetensors"), **style}, here / "bundle.safetensors")
    shared = ["any.pt", "cat toy.safetensors", "a.webp", "bundle.safetensors"]
    (materials,) = stock(shared)[0].values()
    names = ("det-logo", "cat toy", "a dog", "<sky>")
    assert materials.vocabulary.num_vectors == dict.fromkeys(names, 2)
    assert [change.source for change in materials.changes] == ["bundle.safetensors"]


def test_words_beside_a_model_are_there_with_it_alone(here, stock, load):
    write_concepts(here / "whole" / "export", [made_up(load("sd1"), "det-logo", 4)])
    (materials,) = stock(["whole"])[0].values()
    assert materials.vocabulary.num_vectors == {"det-logo": 4}
    (materials,) = stock([], base="whole")[0].values()
    assert (materials.model, materials.vocabulary.num_vectors) == ("whole", {"det-logo": 4})
    (materials,) = stock(["words"], base="whole")[0].values()  # what is named goes first
    assert materials.vocabulary.num_vectors == {"det-logo": 2}
    (materials,) = stock(["whole", "words"])[0].values()
    assert (materials.model, materials.vocabulary.num_vectors) == ("whole", {"det-logo": 2})
    (materials,) = stock(["whole-2"], base="whole")[0].values()
    assert (materials.model, materials.vocabulary.num_vectors) == ("whole-2", {})


def test_shared_checkpoints_give_all_that_they_hold_to_every_image(here, stock, models):
    found, (one,) = stock(["words", "style"])
    (materials,) = found.values()
    assert materials.model == str(models["sd1"]) and not materials.model_digest
    assert list(materials.vocabulary.known) == ["det-logo"]
    assert counted(materials, one) == [("style", 1.0)]
    (materials,) = stock(["pivotal", "whole", "style"])[0].values()
    assert materials.model == "whole" and materials.model_digest
    assert counted(materials, one) == [("pivotal", 1.0), ("style", 1.0)]
    assert materials.vocabulary.num_vectors == {"det-logo": 3}


def test_a_checkpoint_of_the_sweep_is_for_its_own_images(here, stock, models):
    found, images = stock(["style"], checkpoint=["words", "pivotal", "whole", "style"])
    assert [key[0] for key in found] == [one.checkpoint for one in images]
    base = str(models["sd1"])
    assert [one.model for one in found.values()] == [base, base, "whole", base]
    assert [[change.source for change in one.changes] for one in found.values()] == [
        ["style"],
        ["style", "pivotal"],
        ["style"],
        ["style"],
    ]
    vectors = [one.vocabulary.num_vectors for one in found.values()]
    assert vectors == [{"det-logo": 2}, {"det-logo": 3}, {}, {}]
    names = {
        known.concept.name for one in found.values() for known in one.vocabulary.known.values()
    }
    assert len(names) == 2  # one model may have to know both
    assert [scale for _, scale in found["style", None].scales(images[-1])] == [1.0]


def test_an_adapter_of_the_sweep_counts_as_much_as_an_image_says(here, stock):
    found, images = stock(["style"], adapter=["pivotal", "style"], adapter_scale=[0, 0.5, -1])
    assert [(one.adapter, one.adapter_scale) for one in images[:4]] == [
        ("pivotal", 0.0),
        ("pivotal", 0.5),
        ("pivotal", -1.0),
        ("style", 0.0),
    ]
    scales = [found[one.checkpoint, one.adapter].scales(one) for one in images]
    assert [sorted(scale for _, scale in some) for some in scales] == [
        [1.0],
        [0.5, 1.0],
        [-1.0, 1.0],
        [1.0],
        [1.5],
        [],
    ]
    assert list(found[None, "pivotal"].vocabulary.known) == ["det-logo"]
    assert list(found[None, "style"].vocabulary.known) == []


def test_by_default_an_adapter_is_drawn_beside_the_same_without_it(here, stock):
    _, images = stock(adapter="style")
    assert [one.adapter_scale for one in images] == [0.0, 1.0]
    _, images = stock()
    assert [(one.adapter, one.adapter_scale) for one in images] == [(None, None)]


def test_a_checkpoint_may_be_a_uuid(here, models, monkeypatch):
    monkeypatch.setattr("detsd.checkpoints.fetch_checkpoint", {UUID: here / "whole"}.get)
    config = read(GridConfig, {"uuids": UUID, "sweep": {"prompt": "a"}})
    (materials,) = read_stock(config).values()
    assert materials.model == UUID and materials.model_digest


@pytest.mark.parametrize(
    ("shared", "sweep", "said"),
    [
        (
            ["whole", "whole-2"],
            {},
            "sweep.checkpoint: whole and whole-2 are whole models, of which",
        ),
        (["whole"], {"checkpoint": ["words", "whole-2"]}, "whole and whole-2 are whole models"),
        ([], {"adapter": ["whole"]}, "sweep.adapter: whole holds no adapter; name it in sweep.ch"),
        ([], {"adapter": ["style", "words"]}, "sweep.adapter: words holds no adapter; name it in"),
        ([], {"adapter_scale": [1]}, "sweep.adapter_scale: an adapter is wanted with it"),
        ([], {"adapter": ["style"], "adapter_scale": ["x"]}, "sweep.adapter_scale[0]: a number is"),
        ([], {"adapter": ["style", "style"]}, "sweep.adapter: 'style' is in it twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_key(here, stock, shared, sweep, said):
    with pytest.raises(ConfigError) as raised:
        stock(shared, **sweep)
    assert said in str(raised.value)


def test_a_word_of_two_shared_checkpoints_is_refused(here, stock):
    with pytest.raises(ConceptError, match="det-logo is in words and in pivotal; to compare them"):
        stock(["words", "pivotal"])
