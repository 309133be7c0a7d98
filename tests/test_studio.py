"""A grid's images with adapters and trained models: those of a pipeline, whoever draws them."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

import detsd
from detsd import sheets, studio
from detsd.adapters import FILE, AdapterError, write_adapter
from detsd.compiling import CACHE_VARIABLE
from detsd.concepts import write_concepts
from detsd.grid import generate_grid
from detsd.imagestore import INDEX, read_records
from tests.made_up import adapter, merge
from tests.test_model import made_up
from tests.trials import run, run_together

UUID = "0f5bd5a2-7c1c-4a57-9d0e-2f6f3a1b6c55"
WORDS = "a photo of a det-logo"


@pytest.fixture
def here(tmp_path, load, monkeypatch):
    """A folder with a checkpoint of each kind: style, pivotal (with det-logo), whole."""
    monkeypatch.chdir(tmp_path)
    model = load("sd1")
    write_adapter(tmp_path / "style" / "export" / FILE, adapter(model, words=""))
    write_adapter(tmp_path / "pivotal" / "export" / FILE, adapter(model, seed=1))
    write_concepts(tmp_path / "pivotal" / "export", [made_up(model, "det-logo", 2)])
    merge(model, adapter(model, words="", seed=2), 1.0)
    model.pipeline().save_pretrained(tmp_path / "whole" / "export")
    return tmp_path


@pytest.fixture
def grid(models):
    """Return hyperparameters of a grid."""

    def grid(shared=(), **sweep):
        return {
            "pipeline": {"pretrained_model_name_or_path": str(models["sd1"])},
            "local_checkpoint_paths": list(shared),
            "batch_size": 3,
            "sweep": {"prompt": WORDS, "steps": 2, "seed": [1, 2], **sweep},
        }

    return grid


def drawn(folder):
    """The records of a run by their id, each with its image."""
    records = read_records(folder / INDEX)
    files = {path.name for path in (folder / "images").iterdir()}
    assert files == {record["file"].removeprefix("images/") for record in records}
    return {one["id"]: (one, pixels(Image.open(folder / one["file"]))) for one in records}


def pixels(image):
    return np.asarray(image).astype(int)


def assert_alike(image, other):
    off = np.abs(image - other)
    assert off.max() <= 1 and (off > 0).mean() < 0.01


def assert_drawn_by(pipeline, some, prompt=WORDS, **arguments):
    """Check that the pipeline draws these images of two seeds."""
    wanted = pipeline(prompt, seed=1, count=2, steps=2, **arguments)
    by_seed = {record["seed"]: image for record, image in some}
    for seed, image in zip((1, 2), wanted, strict=True):
        assert_alike(by_seed[seed], pixels(image))


def test_an_adapter_is_drawn_beside_the_same_images_without_it(here, grid, models, monkeypatch):
    before = drawn(run(here / "grid", grid(), generate_grid)).keys()
    swept = grid(adapter=["style", "pivotal"], adapter_scale=[0, 0.5])
    titles = []
    sheet = sheets.sheet
    monkeypatch.setattr(
        sheets, "sheet", lambda *arguments: titles.append(arguments[2]) or sheet(*arguments)
    )
    found = drawn(run(here / "grid", swept, generate_grid))  # a grid that has grown
    assert len(found) == 2 * 4  # without an adapter, too: of a det-logo that is pivotal's, and not
    assert before < found.keys()
    cells = {}
    for record, image in found.values():
        key = (record["adapter"], record["adapter_scale"], tuple(record["concepts"]))
        cells.setdefault(key, []).append((record, image))
    style, pivotal = (
        detsd.load_pipeline(models["sd1"], adapters=name) for name in ("style", "pivotal")
    )
    assert cells.keys() == {
        (None, None, ()),
        ("style", 0.5, ()),
        (None, None, ("det-logo",)),
        ("pivotal", 0.5, ("det-logo",)),
    }
    assert_drawn_by(style, cells[None, None, ()], adapters=[])
    assert_drawn_by(style, cells["style", 0.5, ()], adapters={"style": 0.5})
    assert_drawn_by(pivotal, cells[None, None, ("det-logo",)], adapters=[])
    assert_drawn_by(pivotal, cells["pivotal", 0.5, ("det-logo",)], adapters={"pivotal": 0.5})
    named = {key: one[0][0]["adapters"] for key, one in cells.items()}
    assert named == {
        (None, None, ()): {},
        ("style", 0.5, ()): {"style": 0.5},
        (None, None, ("det-logo",)): {"pivotal": 0.0},
        ("pivotal", 0.5, ("det-logo",)): {"pivotal": 0.5},
    }
    assert all(record["checkpoints"] == [] for record, _ in found.values())
    for record, _ in cells["style", 0.5, ()]:
        with Image.open(here / "grid" / record["file"]) as image:
            assert image.text["parameters"].startswith(f"{WORDS} <lora:style:0.5>\n")
    ends = sorted(title.rpartition("2 steps, ")[2] for title in titles)
    assert ends == ["pndm", "pndm, pivotal at 0.5", "pndm, style at 0.5"]


def test_checkpoints_of_every_kind_are_compared_one_model_at_a_time(
    here, grid, models, monkeypatch
):
    alive, loaded = [], []
    load = studio.open_model

    def load_alone(config, *arguments, **keywords):
        assert not [one for one in alive if one() is not None]
        model = load(config, *arguments, **keywords)
        alive.append(weakref.ref(model))
        loaded.append(config.pretrained_model_name_or_path)
        return model

    monkeypatch.setattr(studio, "open_model", load_alone)
    prompts = [WORDS, "a painting"]
    compared = grid(prompt=prompts, checkpoint=["pivotal", "whole", "style"])
    folder = run(here / "grid", compared, generate_grid)
    assert loaded == [str(models["sd1"]), "whole"]
    found = list(drawn(folder).values())
    assert len(found) == 12
    monkeypatch.setattr(studio, "open_model", load)
    pipelines = {
        "pivotal": detsd.load_pipeline(models["sd1"], adapters="pivotal"),
        "style": detsd.load_pipeline(models["sd1"], adapters="style"),
        "whole": detsd.load_pipeline("whole"),
    }
    for name, pipeline in pipelines.items():
        for prompt in prompts:
            some = [
                (record, image)
                for record, image in found
                if (record["checkpoints"], record["prompt"]) == ([name], prompt)
            ]
            assert_drawn_by(pipeline, some, prompt)
    models_named = {record["checkpoints"][0]: record["model"] for record, _ in found}
    assert models_named == {
        "pivotal": str(models["sd1"]),
        "style": str(models["sd1"]),
        "whole": "whole",
    }
    mixed = {record["checkpoints"][0]: record["adapters"] for record, _ in found}
    assert mixed == {"pivotal": {"pivotal": 1.0}, "style": {"style": 1.0}, "whole": {}}
    assert {record["adapter"] for record, _ in found} == {None}


def test_uuids_of_adapters_and_whole_models_are_for_all_images(here, grid, monkeypatch):
    other = UUID.replace("0f", "1e")
    fetched = {UUID: here / "whole", other: here / "pivotal"}
    monkeypatch.setattr("detsd.checkpoints.fetch_checkpoint", fetched.get)
    point = {"prompt": WORDS, "num_inference_steps": 2}
    hparams = {**grid(), "uuids": [UUID, other], "call_kwargs": point, "sweep": None}
    hparams |= {"main_process_generator_seed": 1, "batch_size": 1}
    found = list(drawn(run(here / "grid", hparams, generate_grid)).values())
    assert_drawn_by(detsd.load_pipeline("whole", adapters="pivotal"), found)
    for record, _ in found:
        assert record["model"] == UUID and record["adapters"] == {other: 1.0}
        assert record["checkpoints"] == [other]
        assert record["adapter"] is record["adapter_scale"] is None


def test_a_stopped_grid_goes_on_and_two_processes_draw_the_same(here, grid):
    hparams = grid(checkpoint=["pivotal", "whole"], adapter=["style"])
    straight = drawn(run(here / "straight", hparams, generate_grid))
    folder = run(here / "stopped", hparams, generate_grid, stop_at=3)
    assert 3 <= len(drawn(folder)) < len(straight) == 8
    kept = {record["file"] for record, _ in drawn(folder).values()}
    resumed = drawn(run(folder, hparams, generate_grid))
    assert kept <= {record["file"] for record, _ in resumed.values()}
    two = drawn(run_together(here / "two", hparams, work=generate_grid))
    for found in (resumed, two):
        assert found.keys() == straight.keys()
        for id, (record, image) in found.items():
            assert record["file"] == straight[id][0]["file"]
            assert_alike(image, straight[id][1])


def test_an_adapter_of_another_model_ends_the_grid_in_a_line(here, grid, models):
    hparams = grid(["style"])
    hparams["pipeline"]["pretrained_model_name_or_path"] = str(models["sd2"])
    with pytest.raises(AdapterError, match="^style was made for another base model: .*$"):
        run(here / "grid", hparams, generate_grid)


def test_whether_compiling_pays_is_told_by_the_passes_of_each_model(here, grid, monkeypatch):
    seen = []
    monkeypatch.setattr(studio, "chosen", lambda *asked: seen.append(asked) or "off")
    first = grid(guidance_scale=1, seed=[1, 2, 3], checkpoint="whole")
    run(here / "grid", first, generate_grid)
    # A grid that has grown: what was drawn before counts, too.
    both = grid(guidance_scale=[1, 4], seed=[1, 2, 3], checkpoint=["whole", "pivotal"])
    both["pipeline"]["compile"] = "auto"
    run(here / "grid", both, generate_grid)
    each = 3 * 2 + 3 * 2 * 2
    cpu = torch.device("cpu")
    assert seen == [("off", cpu, 3 * 2), ("auto", cpu, each), ("auto", cpu, each)]


@pytest.mark.slow
def test_compiled_it_draws_the_same(here, grid, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    plain = grid(["pivotal"], adapter_scale=[0, 0.5], adapter="style", seed=[1, 2, 3, 4])
    compiled = {**plain, "pipeline": {**plain["pipeline"], "compile": "blocks"}}
    wanted = drawn(run(here / "plain", plain, generate_grid))
    found = drawn(run(here / "compiled", compiled, generate_grid))
    assert list((tmp_path / "compiled").iterdir())
    assert found.keys() == wanted.keys()
    for key, (_, image) in found.items():
        assert_alike(image, wanted[key][1])
