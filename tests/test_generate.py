"""The pipeline: prompts with concepts from anywhere become images, for old notebooks too."""

import json
import shutil

import numpy as np
import pytest
import torch
from determined.experimental import client
from PIL import Image

import detsd
from detsd.concepts import Concept, ConceptError, read_concepts, write_concepts
from detsd.config import ConfigError
from detsd.generate import find_concepts
from detsd.request import RequestError
from detsd.schedulers import SchedulerError
from tests import carried
from tests.test_model import made_up
from tests.trials import last, run

UUID = "0f5bd5a2-7c1c-4a57-9d0e-2f6f3a1b6c55"
WORDS = "a photo of a det-logo"


@pytest.fixture
def trained(tmp_path, load):
    """A checkpoint with the concept det-logo."""
    write_concepts(tmp_path / "step-1" / "export", [made_up(load("sd1"), "det-logo", 3)])
    return tmp_path / "step-1"


@pytest.fixture
def pipeline(models):
    """A pipeline without concepts."""
    return detsd.load_pipeline(models["sd1"])


def same(one, other):
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 1


def test_a_pipeline_draws_a_trained_concept(models, tmp_path, hparams):
    trained = last(run(tmp_path / "run", hparams))
    pipeline = detsd.load_pipeline(models["sd1"], concepts=[trained])
    assert list(pipeline.concepts) == ["det-logo"]
    images = pipeline(WORDS, seed=1, count=2, steps=3)
    assert [type(image) for image in images] == [Image.Image] * 2
    assert images[0].size == (16, 16)
    again = pipeline([WORDS, "a wall"], seed=2, steps=3)
    assert same(images[1], again[0])
    assert not same(again[0], again[1])


def test_concepts_come_as_records_files_folders_and_uuids(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / ".cache" / "detsd" / "checkpoints" / UUID
    shutil.copytree(trained, kept)
    monkeypatch.setenv("HOME", str(tmp_path))
    (record,) = read_concepts(trained)
    file = trained / "export" / "det-logo.safetensors"
    for source in (record, file, str(file), trained, str(trained), UUID):
        (found,) = find_concepts(source)
        assert torch.equal(found.vectors["clip_l"], record.vectors["clip_l"])
    (tmp_path / UUID).mkdir()
    with pytest.raises(ConceptError, match="holds no concept"):
        find_concepts(UUID)  # what lies here comes first


def test_a_file_of_another_tool_draws_what_its_vectors_do(models, trained, tmp_path):
    (record,) = read_concepts(trained)
    rows = record.vectors["clip_l"]
    torch.save({"string_to_param": {"*": rows}, "name": "det-logo"}, tmp_path / "logo-v2.pt")
    carried.hide({"string_to_param": {"*": rows}, "name": "det-logo"}, tmp_path / "logo.png")
    images = [
        detsd.load_pipeline(models["sd1"], concepts=[source])(WORDS, seed=1, steps=2)[0]
        for source in (trained, tmp_path / "logo-v2.pt", tmp_path / "logo.png")
    ]
    assert images[0].tobytes() == images[1].tobytes() == images[2].tobytes()
    torch.save({"string_to_param": {"*": torch.rand(2, 1024)}}, tmp_path / "cat.pt")
    with pytest.raises(ConceptError, match="cat has .* as of Stable Diffusion 2.x.*another base"):
        detsd.load_pipeline(models["sd1"], concepts=[tmp_path / "cat.pt"])


def test_a_checkpoint_that_cannot_be_fetched_is_refused_in_a_line(models, monkeypatch):
    def refuse(uuid):
        raise RuntimeError("checkpoint not found\nand so on")

    monkeypatch.setattr(client, "get_checkpoint", refuse)
    monkeypatch.setenv("DET_MASTER", "http://there:8080")
    with pytest.raises(ConceptError, match=f"{UUID}, .* master http://there:8080: check.*found$"):
        detsd.load_pipeline(models["sd1"], concepts=UUID)
    with pytest.raises(ConceptError, match="no such file"):
        detsd.load_pipeline(models["sd1"], concepts=["no-such-folder"])


def test_each_prompt_has_its_own_seed_guidance_and_negative_prompt(pipeline):
    together = pipeline(
        ["a photo", "art"],
        negative_prompt=["", "paper"],
        seed=[5, 9],
        guidance=[3.0, 0.5],
        count=2,
        steps=3,
        batch_size=3,
    )
    assert [json.loads(image.info["detsd"])["seed"] for image in together] == [5, 6, 9, 10]
    alone = [
        *pipeline("a photo", seed=5, guidance=3, steps=3),
        *pipeline("a photo", seed=6, guidance=3, steps=3),
        *pipeline("art", seed=9, guidance=0.5, steps=3),
        *pipeline("art", seed=10, guidance=1, negative_prompt="any", steps=3),
    ]
    assert all(same(one, other) for one, other in zip(together, alone, strict=True))
    assert pipeline([]) == []


@pytest.mark.parametrize("key", ["seed", "guidance", "negative_prompt"])
def test_lists_of_another_length_than_the_prompts_are_refused(pipeline, key):
    with pytest.raises(RequestError, match=f"{key}: .* each of the 3 is wanted, found 2"):
        pipeline(["a", "b", "c"], **{key: ["1", "2"]})


def test_an_image_says_how_it_was_made(models, trained):
    pipeline = detsd.load_pipeline(models["sd1"], concepts=trained, scheduler="euler-karras")
    (image,) = pipeline(
        WORDS, seed=4, steps=2, size=(24, 16), scheduler_kwargs={"timestep_spacing": "trailing"}
    )
    assert image.size == (24, 16)
    about = json.loads(image.info["detsd"])
    assert about == {
        "prompt": WORDS,
        "negative_prompt": "",
        "seed": 4,
        "guidance": 7.5,
        "steps": 2,
        "scheduler": "euler-karras",
        "scheduler_kwargs": {"timestep_spacing": "trailing"},
        "width": 24,
        "height": 16,
        "model": str(models["sd1"]),
        "concepts": ["det-logo"],
        "adapters": {},
    }
    assert image.info["detsd"] == json.dumps(about, sort_keys=True)
    assert "flags" not in image.info
    (again,) = pipeline(WORDS, seed=4, steps=2, scheduler="pndm")
    assert json.loads(again.info["detsd"])["scheduler"] == "pndm"


def test_what_cannot_be_drawn_is_refused_by_its_name(pipeline, models):
    with pytest.raises(SchedulerError, match="no scheduler is called eulr; did you mean euler?"):
        pipeline("a", scheduler="eulr")
    with pytest.raises(SchedulerError, match="no scheduler is called eulr"):
        detsd.load_pipeline(models["sd1"], scheduler="eulr")
    with pytest.raises(ConfigError, match="scheduler: pndm has no such argument as eta"):
        pipeline("a", scheduler_kwargs={"eta": 1})
    with pytest.raises(ConfigError, match="scheduler: pndm cannot take 0 steps"):
        pipeline("a", steps=0)
    with pytest.raises(RequestError, match="count: 1 or more is wanted, found 0"):
        pipeline("a", count=0)
    with pytest.raises(RequestError, match="<cat-toy>"):
        pipeline("a <cat-toy>")
    with pytest.raises(ConfigError, match="precision: fp32, bf16, fp16 are known, found 'half'"):
        detsd.load_pipeline(models["sd1"], precision="half")


def test_a_concept_of_another_model_is_refused_with_both_widths(models, trained):
    with pytest.raises(ConceptError, match=r"det-logo .* width 32 \(clip_l\), .* takes 48 \(clip_"):
        detsd.load_pipeline(models["sd2"], concepts=[trained])
    rows = {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}
    with pytest.raises(ConceptError, match=r"768 \+ 1280 \(clip_l and clip_g, as of .* XL\), "):
        detsd.load_pipeline(models["sd1"], concepts=Concept("det-logo", rows))


def test_a_long_prompt_is_warned_of_once(pipeline, caplog):
    pipeline("a photo " * 40 + "brain", count=3, steps=1, batch_size=1)
    assert [record.args[1].endswith("brain") for record in caplog.records] == [True]


def test_progress_is_shown_where_it_is_asked_for(pipeline, capsys):
    pipeline("a", count=2, steps=2)
    assert capsys.readouterr().err == ""  # no terminal
    pipeline("a", count=2, steps=2, progress=True)
    assert "2/2 images" in capsys.readouterr().err


def test_the_earlier_class_still_works(models, trained):
    pipeline = detsd.DetSDTextualInversionPipeline(
        pretrained_model_name_or_path=str(models["sd1"]), device="cpu", disable_progress_bar=True
    )
    pipeline.load_from_checkpoint_dir(trained)
    assert pipeline.all_added_concepts == ["det-logo"]
    output = pipeline(prompt=WORDS, num_inference_steps=3, num_images_per_prompt=2)
    assert output.images[0].size == (16, 16)
    assert output.nsfw_content_detected == [False, False]
    arguments = {"num_inference_steps": 1, "output_type": "np", "return_dict": False}
    images, flagged = pipeline(prompt=WORDS, **arguments)
    assert (images.shape, flagged) == ((1, 16, 16, 3), [False])
    with pytest.raises(ConceptError, match="was added before"):
        pipeline.load_from_checkpoint_dir(trained / "export")
    with pytest.raises(SchedulerError, match="no scheduler is called k-lms"):
        detsd.DetSDTextualInversionPipeline(
            pretrained_model_name_or_path=str(models["sd1"]), device="cpu", scheduler_name="k-lms"
        )


def test_the_trainer_of_the_earlier_example_is_there():
    assert callable(detsd.DetSDTextualInversionTrainer.train_on_cluster)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = detsd.Nothing


def test_no_model_there_is_an_error_in_a_line(tmp_path):
    with pytest.raises(
        ConfigError, match="^pretrained_model_name_or_path: the folder holds no model"
    ):
        detsd.load_pipeline(tmp_path)
