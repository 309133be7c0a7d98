"""What is hidden cannot be imported, and is there again afterwards."""

import importlib.util
import subprocess
import sys

import pytest

from detsd.hiding import UNNEEDED, hidden

ENTRIES = """
import sys
from importlib import import_module
from detsd.hiding import UNNEEDED, hidden
with hidden(*UNNEEDED):
    import_module("detsd.finetune"), import_module("detsd.grid")
print(sorted(set(UNNEEDED) & set(sys.modules)))
from bitsandbytes.optim import AdamW8bit
import boto3, detsd.lora, diffusers
diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline
"""


def test_a_hidden_library_is_not_there_and_then_it_is() -> None:
    sys.modules.pop("wave", None)
    with hidden("wave"):
        assert importlib.util.find_spec("wave") is None
        with pytest.raises(ImportError):
            import wave
    import wave

    assert wave.open


def test_a_library_in_use_stays() -> None:
    with hidden("json"):
        import json
    assert json.dumps({}) == "{}"


def test_it_is_found_again_after_an_error() -> None:
    sys.modules.pop("wave", None)
    with pytest.raises(ZeroDivisionError), hidden("wave"):
        _ = 1 / 0
    assert importlib.util.find_spec("wave") is not None


def test_training_and_drawing_do_without_them_and_what_needs_them_finds_them() -> None:
    made = subprocess.run(
        [sys.executable, "-c", ENTRIES], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == "[]"
    assert UNNEEDED
