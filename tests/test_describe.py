"""Words for pictures, found by the demo's own scorer."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from demo.describe import describe, things
from demo.palette import COLOURS
from demo.subjects import SHAPES, Shape
from demo.world import draw, scene
from detsd.score import load_scorer
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def scorer():
    return load_scorer(str(ROOT / "demo" / "model" / "scorer"), None, torch.device("cpu"))


@pytest.mark.parametrize("colour, shape", [("red", "star"), ("blue", "heart"), ("green", "cross")])
def test_a_thing_of_the_world_is_called_what_it_is(scorer, colour, shape):
    plain = {"medium": "photo", "size": "", "place": "", "subject": Shape(colour, shape)}
    scenes = [replace(scene(number), **plain) for number in range(12)]
    pictures = [draw(one, np.random.default_rng(place), 64) for place, one in enumerate(scenes)]
    assert describe(scorer, pictures) == f"{colour} {shape}"


def test_every_shape_of_every_colour_has_words():
    assert {f"{colour} {shape}" for colour in COLOURS for shape in SHAPES} <= set(things())


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    for folder in (tmp_path, tmp_path / "none"):
        command = [sys.executable, "-m", "demo.describe", str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "holds no picture that can be used" in done.stderr
