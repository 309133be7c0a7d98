"""The images of a grid: each there once, known by what it follows from and by nothing else."""

import shutil

import pytest
import torch

from detsd.adapters import FILE, write_adapter
from detsd.concepts import write_concepts
from detsd.config import GridConfig, read
from detsd.jobs import by_model, list_jobs
from detsd.materials import read_stock
from tests.conftest import ROOT
from tests.made_up import adapter
from tests.test_model import made_up

DEMO = {"pretrained_model_name_or_path": "demo/model"}
LAWN = {
    "prompt": ["a {concept} on a lawn", "a lawn"],
    "concept": ["det-logo"],
    "guidance_scale": [2, 6],
    "seed": [1, 2],
}
MORE = {
    "checkpoint": ["demo/det-logo.pt", "demo/det-logo.safetensors"],
    "negative_prompt": ["", "snow"],
    "scheduler": ["ddim", "pndm"],
    "width": 64,
}
ARGUMENTS = {"beta_start": 0.001, "other_scheduler_kwargs": {"timestep_spacing": "trailing"}}
WORD = {"local_checkpoint_paths": "demo/det-logo.safetensors"}


def jobs_of(**hparams):
    config = read(GridConfig, hparams)
    return list_jobs(config, read_stock(config), 2)


def test_null_is_none_of_what_may_be_left_out():
    none = dict.fromkeys(("uuids", "local_checkpoint_paths", "scorer_img_dirs"))
    swept = {"prompt": "a", **dict.fromkeys(("concept", "checkpoint", "scheduler", "adapter"))}
    assert len(jobs_of(pipeline=DEMO, sweep=swept, **none)) == 1


@pytest.mark.parametrize(
    ("hparams", "count", "first", "last"),
    [
        ({**WORD, "sweep": LAWN}, 8, "062f8c034237", "c60cab7aac26"),
        ({"pipeline": DEMO | ARGUMENTS, "sweep": LAWN | MORE}, 64, "b954a6f899e6", "ac74f3c1ea8e"),
        (
            {**WORD, "call_kwargs": {"prompt": "a det-logo"}, "batch_size": 2},
            4,
            "d5ca4ad0f93c",
            "4339c70b93c7",
        ),
    ],
)
def test_images_without_adapters_have_the_ids_that_they_had_before_there_were_any(
    hparams, count, first, last, monkeypatch
):
    monkeypatch.chdir(ROOT)
    jobs = jobs_of(**{"pipeline": DEMO, **hparams})
    assert (len(jobs), jobs[0].id, jobs[-1].id) == (count, first, last)
    assert [job.number for job in jobs] == list(range(count))


@pytest.fixture
def here(tmp_path, load, monkeypatch):
    """A folder with adapters: style and other, and two that were learnt with a concept."""
    monkeypatch.chdir(tmp_path)
    model = load("sd1")
    for number, name in enumerate(("style", "other", "one", "two")):
        write_adapter(tmp_path / name / FILE, adapter(model, words="attn1", seed=number))
    for number, name in enumerate(("one", "two"), start=1):
        write_concepts(tmp_path / name, [made_up(model, "det-logo", number)])
    return tmp_path


@pytest.fixture
def jobs(models):
    """Return the jobs of a sweep."""

    def jobs(prompt="a", model="sd1", shared=(), **sweep):
        return jobs_of(
            pipeline={"pretrained_model_name_or_path": str(models[model])},
            local_checkpoint_paths=list(shared),
            sweep={"prompt": prompt, "seed": [1, 2], **sweep},
        )

    return jobs


def ids(jobs):
    return [job.id for job in jobs]


def test_without_its_adapter_an_image_is_there_once_and_is_what_it_was(here, jobs):
    plain = ids(jobs())
    mixed = jobs(adapter=["style", "other"], adapter_scale=[0, 0.5, 1])
    assert len(mixed) == 2 * (1 + 2 * 2)
    assert ids(mixed)[:2] == plain
    assert len(set(ids(mixed))) == len(mixed)
    assert set(ids(mixed)) == set(ids(jobs(adapter=["other", "style"], adapter_scale=[1, 0.5, 0])))


def test_an_image_is_known_by_the_content_and_scale_of_its_adapters(here, jobs, load):
    first = ids(jobs(adapter="style", adapter_scale=[0.5]))
    assert first != ids(jobs(adapter="style", adapter_scale=[0.25]))
    shutil.copytree(here / "style", here / "moved")
    assert first == ids(jobs(adapter="moved", adapter_scale=[0.5]))
    whole = ids(jobs(adapter="style", adapter_scale=[1]))
    assert whole == ids(jobs(shared=["style"]))
    both = ids(jobs(shared=["style", "other"]))
    assert both == ids(jobs(shared=["other", "style"]))
    assert both == ids(jobs(shared=["other"], adapter="style", adapter_scale=[1]))
    write_adapter(here / "style" / FILE, adapter(load("sd1"), words="attn1", seed=9))
    assert first != ids(jobs(adapter="style", adapter_scale=[0.5]))


def test_a_word_that_came_with_an_adapter_is_drawn_for_each_without_it(here, jobs):
    arguments = {"adapter": ["one", "two"], "adapter_scale": [0]}
    assert len(jobs("a wall", **arguments)) == 2
    found = jobs("a det-logo", **arguments)
    assert len(found) == 4
    assert [job.wanted.adapter for job in found] == ["one", "one", "two", "two"]


def test_a_whole_model_is_known_by_its_content(here, jobs, load):
    model = load("sd1")
    model.pipeline().save_pretrained(here / "whole" / "export")
    shutil.copytree(here / "whole", here / "moved")
    first = ids(jobs(shared=["whole"]))
    assert first == ids(jobs(shared=["moved"])) != ids(jobs())
    compared = jobs(checkpoint=["whole", "style"])
    with torch.no_grad():
        for weight in model.unet.parameters():
            weight *= 1.001
    model.pipeline().save_pretrained(here / "whole" / "export")
    assert not set(first) & set(ids(jobs(shared=["whole"])))
    again = jobs(checkpoint=["whole", "style"])
    assert not set(ids(compared[:2])) & set(ids(again)) and ids(compared[2:]) == ids(again[2:])


def test_each_model_is_loaded_once(here, jobs, load):
    for name in ("whole", "whole-2"):
        load("sd1").pipeline().save_pretrained(here / name / "export")
    found = jobs(["a", "b"], checkpoint=["whole", "style", "whole-2"])
    models = [job.materials.model for job in by_model(found)]
    assert len(models) == 12 and len(set(models)) == 3
    assert models == sorted(models, key=models.index)
    assert {job.id for job in by_model(found)} == {job.id for job in found}
    assert by_model([]) == []
