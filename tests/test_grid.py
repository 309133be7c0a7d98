"""Grids: every image made once, whatever stops it, and the same as diffusers makes."""

import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from detsd import grid as grids
from detsd.concepts import ConceptError
from detsd.config import ModelConfig
from detsd.gather import gather
from detsd.grid import generate_grid
from detsd.imagestore import INDEX, read_records
from detsd.pretrained import load_model
from detsd.request import RequestError
from detsd.runfolder import read_metrics
from tests.trials import last, run

SWEEP = {
    "prompt": ["a photo of a {concept}", "a painting of a {concept} in the rain"],
    "concept": ["det-logo", "brain"],
    "guidance_scale": [1, 6],
    "steps": 3,
    "seed": {"first": 5, "count": 4},
}


@pytest.fixture
def checkpoint(hparams, tmp_path):
    """A concept that was learnt a little."""
    return last(run(tmp_path / "run", hparams))


@pytest.fixture
def grid(models, checkpoint):
    """A generation YAML of 32 images."""
    return {
        "entrypoint": "python3 -m determined.launch.torch_distributed python3 -m detsd.grid",
        "searcher": {"name": "single", "metric": "prompt_adherence"},
        "resources": {"slots_per_trial": 2},
        "hyperparameters": {
            "pipeline": {"pretrained_model_name_or_path": str(models["sd1"])},
            "local_checkpoint_paths": [str(checkpoint)],
            "batch_size": 3,
            "sweep": SWEEP,
        },
    }


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def images(folder):
    """The images of a run by what they show, each of them listed and there once."""
    records = read_records(folder / "images.jsonl")
    files = {path.name for path in (folder / "images").iterdir()}
    assert files == {record["file"].removeprefix("images/") for record in records}
    assert len(files) == len(records)
    keys = ("prompt", "guidance_scale", "seed")
    return {tuple(one[key] for key in keys): pixels(folder / one["file"]) for one in records}


def assert_alike(some, others):
    assert some.keys() == others.keys()
    for key in some:
        off = np.abs(some[key] - others[key])
        assert off.max() <= 1 and (off > 0).mean() < 0.001, key


def alone(models, checkpoint, prompt, scale, seed):
    """Draw the image in plain diffusers, which loads the concept itself."""
    config = ModelConfig(pretrained_model_name_or_path=str(models["sd1"]))
    pipeline = load_model(config, torch.device("cpu")).pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(checkpoint / "export" / "det-logo.safetensors")
    generator = torch.Generator().manual_seed(seed)
    arguments = {"num_inference_steps": 3, "guidance_scale": scale, "generator": generator}
    return np.asarray(pipeline(prompt, **arguments).images[0]).astype(int)


def test_a_sweep_makes_every_image_once_and_as_diffusers_does(cli, grid, models, checkpoint):
    file = str(cli.write(grid))
    output = cli(file, "--out", "grid", "--processes", "2")
    assert "32 images, 32 of them to be made" in output
    made = images(cli.folder / "grid")
    assert len(made) == 32
    key = ("a painting of a det-logo in the rain", 6.0, 7)
    assert np.abs(made[key] - alone(models, checkpoint, *key)).max() <= 1
    assert np.abs(made[key] - made[(key[0].replace("det-logo", "brain"), 6.0, 7)]).max() > 1
    assert (cli.folder / "grid" / "index.html").is_file()
    sheets = list((cli.folder / "grid" / "samples").rglob("*.png"))
    assert len(sheets) == 8  # one a cell
    again = cli(file, "--out", "grid")
    assert "nothing is left to do" in again
    assert_alike(made, images(cli.folder / "grid"))


def test_more_values_on_an_axis_make_the_new_images_alone(grid, tmp_path, caplog):
    caplog.set_level("INFO")
    hparams = grid["hyperparameters"]
    made = images(run(tmp_path / "grid", hparams, generate_grid))
    hparams["sweep"] = {**SWEEP, "seed": [5, 6, 7, 8, 9]}
    assert len(images(run(tmp_path / "grid", hparams, generate_grid))) == len(made) + 8
    assert "40 images, 8 of them to be made" in caplog.text


def test_a_killed_grid_goes_on_with_another_number_of_processes(cli, grid):
    file = str(cli.write(grid))
    straight = run(cli.folder / "straight", grid["hyperparameters"], generate_grid)
    chance = random.Random(0)
    for processes in ("2", "1", "3"):
        process = cli.start(file, "--out", "killed", "--processes", processes)
        index = cli.folder / "killed" / "images.jsonl"
        enough = (len(read_records(index)) if index.is_file() else 0) + chance.randrange(1, 8)
        while process.poll() is None and len(read_records(index)) < min(enough, 31):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    killed = run(cli.folder / "killed", grid["hyperparameters"], generate_grid)
    assert_alike(images(straight), images(killed))


def test_a_stopped_grid_saves_what_it_has(grid, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = run(tmp_path / "grid", grid["hyperparameters"], generate_grid, stop_at=6)
    assert "stopped with images left" in caplog.text
    count = len(read_records(folder / "images.jsonl"))
    assert 6 <= count < 32
    (saved,) = (folder / "checkpoints").iterdir()
    assert len(list((saved / "images").iterdir())) == count
    run(folder, grid["hyperparameters"], generate_grid)
    assert len(images(folder)) == 32
    newest = last(folder)
    assert len(list((newest / "images").iterdir())) == 32 - count
    homes = {one["kept_in"] for one in read_records(folder / "images.jsonl")}
    assert homes == {saved.name, newest.name}


def test_images_are_encoded_by_several_threads_at_once(grid, tmp_path, monkeypatch):
    hparams = grid["hyperparameters"] | {"batch_size": 4}
    wanted = images(run(tmp_path / "alone", hparams, generate_grid))
    together = threading.Barrier(2, timeout=60)
    encode = grids.encode

    def encode_with_another(image, record):
        together.wait()  # breaks, and fails the run, where nobody else comes
        return encode(image, record)

    monkeypatch.setattr(grids, "encode", encode_with_another)
    monkeypatch.setattr(grids, "cores", lambda: 2)
    made = images(run(tmp_path / "together", hparams, generate_grid))
    assert made.keys() == wanted.keys()
    assert all(np.array_equal(made[key], wanted[key]) for key in made)


@pytest.mark.parametrize(("cpus", "processes", "wanted"), [(16, 1, 16), (16, 8, 2), (2, 8, 1)])
def test_processes_share_the_cpus_that_encode(cpus, processes, wanted, monkeypatch):
    monkeypatch.setattr(grids, "cores", lambda: cpus)
    assert grids.encoders(processes) == wanted


def test_checkpoints_are_compared_under_one_name(grid, tmp_path, checkpoint):
    first = sorted((tmp_path / "run" / "checkpoints").iterdir())[0]
    del grid["hyperparameters"]["local_checkpoint_paths"]
    sweep = {"prompt": "a det-logo", "steps": 3, "seed": [1], "checkpoint": [str(first)]}
    grid["hyperparameters"]["sweep"] = {**sweep, "checkpoint": [str(first), str(checkpoint)]}
    folder = run(tmp_path / "grid", grid["hyperparameters"], generate_grid)
    one, other = read_records(folder / "images.jsonl")
    assert one["checkpoints"] + other["checkpoints"] == [str(first), str(checkpoint)]
    assert one["prompt"] == other["prompt"] == "a det-logo"
    assert np.abs(pixels(folder / one["file"]) - pixels(folder / other["file"])).max() > 0


def test_plain_words_are_drawn_for_each_checkpoint(grid, tmp_path, checkpoint):
    first = sorted(checkpoint.parent.iterdir())[0]
    del grid["hyperparameters"]["local_checkpoint_paths"]
    grid["hyperparameters"]["sweep"] = {
        "prompt": "a photo of a {concept}",
        "concept": ["det-logo", "brain"],
        "checkpoint": [str(first), str(checkpoint)],
        "steps": 2,
        "seed": [1, "1"],  # the same one
    }
    folder = run(tmp_path / "grid", grid["hyperparameters"], generate_grid)
    records = read_records(folder / "images.jsonl")
    assert len({one["file"] for one in records}) == len(list((folder / "images").iterdir())) == 4
    assert [one["checkpoints"] for one in records if "brain" in one["prompt"]] == [
        [str(first)],
        [str(checkpoint)],
    ]


def test_another_schedulers_arguments_make_other_images(grid, tmp_path, caplog):
    caplog.set_level("INFO")
    hparams = grid["hyperparameters"]
    hparams["sweep"] = {"prompt": "a", "steps": 3, "seed": 1, "scheduler": ["ddim", "euler"]}
    arguments = {"timestep_spacing": "trailing"}
    hparams["pipeline"] |= {"scheduler_name": "ddim", "other_scheduler_kwargs": arguments}
    folder = run(tmp_path / "grid", hparams, generate_grid)
    kept = {one["scheduler"]: one["scheduler_kwargs"] for one in read_records(folder / INDEX)}
    assert kept == {"ddim": arguments, "euler": {}}
    hparams["pipeline"]["scheduler_name"] = "euler"
    run(folder, hparams, generate_grid)
    assert "2 images, 2 of them to be made" in caplog.text


def test_a_grid_that_grows_keeps_its_images_in_their_cells(grid, tmp_path):
    hparams = grid["hyperparameters"]
    for scales in ([1, 6], [1, 3, 6]):
        hparams["sweep"] = {"prompt": "a", "steps": 2, "seed": [1], "guidance_scale": scales}
        folder = run(tmp_path / "grid", hparams, generate_grid)
    cells = {one["guidance_scale"]: one["cell"] for one in read_records(folder / INDEX)}
    assert cells == {1: 0, 3: 1, 6: 2}
    sheets = [path.name for path in sorted(folder.glob("samples/*/*.png"))]
    assert sheets == ["0000-a-scale-1.png", "0001-a-scale-6.png", "0001-a-scale-3.png"]


def test_an_image_thrown_away_is_made_again_and_no_checkpoint_is_lost(grid, tmp_path):
    hparams = grid["hyperparameters"]
    hparams["sweep"] = {"prompt": "a", "steps": 2, "seed": [1, 2, 3]}
    folder = run(tmp_path / "grid", hparams, generate_grid)
    min((folder / "images").iterdir()).unlink()
    run(folder, hparams, generate_grid)
    counts = [len(list(one.glob("images/*"))) for one in sorted(folder.glob("checkpoints/*"))]
    assert counts == [3, 1] and len(images(folder)) == 3
    gather(str(last(folder)), tmp_path / "all")


def test_scores_are_reported_after_a_crash_at_the_end(
    grid, tmp_path, scorer_folder, pictures, monkeypatch
):
    hparams = grid["hyperparameters"]
    hparams |= {"scorer_name_or_path": str(scorer_folder), "scorer_img_dirs": str(pictures)}
    hparams["sweep"] = {"prompt": "a", "steps": 2, "seed": [1, 2]}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(
            "detsd.grid.Keeper.finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        run(tmp_path / "grid", hparams, generate_grid)
    hparams["sweep"]["prompt"] = "a"
    folder = run(tmp_path / "grid", hparams, generate_grid)
    (reported,) = read_metrics(folder / "metrics.jsonl")
    assert set(reported["metrics"]) == {"prompt_adherence", "fidelity"}


def test_a_concept_in_angle_brackets_is_compared_too(grid, tmp_path, models, hparams):
    hparams["concepts"]["concept_strs"] = "<cat-toy>"
    first, *_, second = sorted((run(tmp_path / "cat", hparams) / "checkpoints").iterdir())
    del grid["hyperparameters"]["local_checkpoint_paths"]
    sweep = {"prompt": "a <cat-toy>", "steps": 2, "seed": [1]}
    grid["hyperparameters"]["sweep"] = {**sweep, "checkpoint": [str(first), str(second)]}
    folder = run(tmp_path / "grid", grid["hyperparameters"], generate_grid)
    one, other = (pixels(folder / record["file"]) for record in read_records(folder / INDEX))
    assert np.abs(one - other).max() > 0
    grid["hyperparameters"]["sweep"]["prompt"] = "a <dog-toy>"
    with pytest.raises(RequestError, match=r"names <dog-toy>.*its concepts: <cat-toy>\)"):
        run(tmp_path / "other", grid["hyperparameters"], generate_grid)


def test_images_are_scored_where_a_scorer_is_named(grid, tmp_path, scorer_folder, pictures):
    hparams = grid["hyperparameters"]
    hparams["scorer_name_or_path"] = str(scorer_folder)
    hparams["scorer_img_dirs"] = str(pictures)
    hparams["sweep"] = {"prompt": "a det-logo", "steps": 2, "seed": [1, 2]}
    folder = run(tmp_path / "grid", hparams, generate_grid)
    records = read_records(folder / "images.jsonl")
    for record in records:
        assert set(record["metrics"]) == {"prompt_adherence", "fidelity"}
    (reported,) = read_metrics(folder / "metrics.jsonl")
    assert reported["group"] == "validation" and reported["step"] == 2
    scored = [one["metrics"]["fidelity"] for one in records]
    assert reported["metrics"]["fidelity"] == pytest.approx(sum(scored) / 2)


def test_a_dry_run_says_what_it_would_take_and_makes_nothing(cli, grid):
    output = cli(str(cli.write(grid)), "--out", "grid", "--dry-run")
    assert "32 images in 8 cells: about" in output and " MB" in output
    assert not (cli.folder / "grid").exists()


def test_the_earlier_examples_grid_is_a_trial_a_point(cli, models, checkpoint):
    experiment = {
        "entrypoint": "python3 -m determined.launch.torch_distributed python3 generate.py",
        "searcher": {"name": "grid", "metric": "none"},
        "resources": {"slots_per_trial": 2},
        "hyperparameters": {
            "batch_size": 2,
            "num_batches": 1,
            "main_process_generator_seed": {"type": "categorical", "vals": [5, 6]},
            "save_freq": 1,
            "pipeline": {
                "pretrained_model_name_or_path": str(models["sd1"]),
                "disable_progress_bar": True,
                "other_scheduler_kwargs": {},
            },
            "uuids": [],
            "local_checkpoint_paths": [str(checkpoint)],
            "call_kwargs": {
                "prompt": "a photo of a det-logo",
                "num_inference_steps": 3,
                "guidance_scale": 6,
            },
        },
    }
    file = str(cli.write(experiment))
    cli(file, "--out", "grid", "--processes", "1")
    made = {}
    for seed in (5, 6):
        (folder,) = (cli.folder / "grid").glob(f"main_process_generator_seed={seed}-*")
        made[seed] = images(folder)
    assert [key[2] for key in sorted(made[5])] == [5, 6, 7, 8]
    key = ("a photo of a det-logo", 6.0, 6)
    assert np.abs(made[5][key] - made[6][key]).max() <= 1
    assert np.abs(made[5][key] - alone(models, checkpoint, *key)).max() <= 1
    together = read_records(cli.folder / "grid" / "images.jsonl")
    seeds = [{one["seed"] for one in together if one["cell"] == cell} for cell in (0, 1)]
    assert sorted(map(min, seeds)) == [5, 6] and [len(some) for some in seeds] == [4, 4]
    assert len(together) == 8
    assert all((cli.folder / "grid" / one["file"]).is_file() for one in together)
    assert (cli.folder / "grid" / "index.html").is_file()


def test_a_broken_point_is_refused_by_its_key(cli):
    (cli.folder / "bad.yaml").write_text(
        "entrypoint: python3 generate.py\n"
        "hyperparameters: {call_kwargs: {guidance_scale: 3}, local_checkpoint_paths: [nope]}\n"
    )
    output = cli("bad.yaml", code=2)
    assert "call_kwargs.prompt: missing" in output
    assert "local_checkpoint_paths: no such file or folder: nope" in output


def test_a_concept_in_two_checkpoints_is_refused(grid, checkpoint, tmp_path):
    first = sorted((tmp_path / "run" / "checkpoints").iterdir())[0]
    grid["hyperparameters"]["local_checkpoint_paths"] = [str(first), str(checkpoint)]
    with pytest.raises(ConceptError, match="to compare them, name both in sweep.checkpoint"):
        run(tmp_path / "grid", grid["hyperparameters"], generate_grid)
