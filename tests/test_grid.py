"""Generation as the earlier example's grid has it: a trial a point, image j of seed s has s + j."""

import numpy as np
import torch
from PIL import Image

from detsd.config import ModelConfig
from detsd.model import load_model
from tests.trials import last, run


def test_a_grid_makes_every_image_once(cli, models, hparams, tmp_path):
    checkpoint = last(run(tmp_path / "run", hparams))
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
    cli(file, "--out", "grid", "--processes", "2")
    pictures = {
        seed: sorted((cli.folder / "grid").glob(f"main_process_generator_seed={seed}-*/**/*.png"))
        for seed in (6, 5)
    }
    assert [len(paths) for paths in pictures.values()] == [4, 4]
    from_six, from_five = (
        [np.asarray(Image.open(path)).astype(int) for path in paths] for paths in pictures.values()
    )
    assert np.abs(from_five[1] - from_six[0]).max() <= 1  # seed 6 both
    assert np.abs(from_five[0] - from_six[0]).max() > 1
    assert np.abs(from_five[0] - alone(models, checkpoint, 5)).max() <= 1
    lost = pictures[6][3]
    kept = {path: path.stat().st_mtime_ns for path in pictures[6][:2]}
    lost.unlink()
    cli(file, "--out", "grid")
    assert lost.is_file()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert "nothing is left to do" in cli(file, "--out", "grid")


def alone(models, checkpoint, seed):
    """Draw the image in plain diffusers, which loads the concept itself."""
    config = ModelConfig(pretrained_model_name_or_path=str(models["sd1"]))
    pipeline = load_model(config, torch.device("cpu")).pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(checkpoint / "export" / "det-logo.safetensors")
    generator = torch.Generator().manual_seed(seed)
    arguments = {"num_inference_steps": 3, "guidance_scale": 6, "generator": generator}
    return np.asarray(pipeline("a photo of a det-logo", **arguments).images[0]).astype(int)


def test_a_broken_point_is_refused_by_its_key(cli):
    (cli.folder / "bad.yaml").write_text(
        "entrypoint: python3 generate.py\n"
        "hyperparameters: {call_kwargs: {guidance_scale: 3}, local_checkpoint_paths: [nope]}\n"
    )
    output = cli("bad.yaml", code=2)
    assert "call_kwargs.prompt: a prompt is wanted" in output
    assert "local_checkpoint_paths: no such file or folder: nope" in output
