"""What is hidden cannot be imported, and is there again afterwards."""

import gc
import importlib.util
import subprocess
import sys

import pytest

from detsd.hiding import UNNEEDED, garbage_left, hidden, put_off

PARTS = """
from detsd.hiding import LATER, put_off
with put_off(*LATER):
    {}
"""
ENTRIES = """
import gc, sys
from importlib import import_module
from detsd.hiding import UNNEEDED, lean_imports
import detsd.rank, detsd.foldertrial
for _ in range(2):  # of each trial of a search
    with lean_imports():
        import_module("detsd.finetune"), import_module("detsd.grid")
    frozen = gc.get_freeze_count()
    assert frozen > 100_000, frozen  # of the first one alone
    model = [[] for _ in range(1_000_000)]
assert frozen < 1_000_000
wanted = {*UNNEEDED, "scipy.special", "scipy.optimize", "scipy.sparse", "determined"}
print(sorted(wanted & set(sys.modules)))
from bitsandbytes.optim import AdamW8bit
import boto3, detsd.lora, diffusers
diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline
for scheduler in (
    diffusers.LMSDiscreteScheduler(),
    diffusers.LMSDiscreteScheduler(use_beta_sigmas=True),
    diffusers.DPMSolverMultistepScheduler(use_beta_sigmas=True),
):
    scheduler.set_timesteps(3)
    assert len(scheduler.sigmas) == 4
scheduler = diffusers.LMSDiscreteScheduler()
scheduler.set_timesteps(3)
assert scheduler.get_lms_coefficient(2, 1, 0)
import scipy.integrate, scipy.stats
assert scipy.stats.norm.cdf(0) == 0.5 and type(scipy.integrate).__name__ == "module"
"""


WRITER = """
import sys
from pathlib import Path
from detsd.trial import Trial
trial = Trial.__new__(Trial)
trial._writer, trial._first_step, trial.tensorboard = None, 0, lambda: Path(sys.argv[1])
trial.writer.add_scalar("loss", 1.0, 1)
trial.close()
assert "tensorboard" in sys.modules and "boto3" not in sys.modules
import boto3
"""


def test_the_writer_of_logs_comes_without_what_writes_to_s3(tmp_path) -> None:
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], check=True)
    assert list(tmp_path.glob("events*"))


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


def test_a_library_that_is_put_off_comes_when_it_is_used() -> None:
    sys.modules.pop("wave", None)
    with put_off("wave"):
        import wave

        assert not hasattr(wave, "__file__")
    assert "wave" not in sys.modules
    assert issubclass(wave.Error, Exception)
    assert wave.Error is sys.modules["wave"].Error


def test_it_comes_at_once_to_who_cannot_wait() -> None:
    sys.modules.pop("wave", None)
    with put_off("wave"):
        from wave import Error

        assert Error is sys.modules["wave"].Error


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_left_for_a_while(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with garbage_left():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize(
    "asked",
    [
        "from scipy.stats import norm; norm.cdf(0)",
        "import scipy.stats as stats; stats.norm.cdf(0)",
        "import scipy.stats.distributions, scipy.integrate; scipy.integrate.quad",
        "from scipy.integrate._ivp import solve_ivp",
        "import scipy.signal; scipy.signal.find_peaks",
    ],
)
def test_parts_of_what_is_put_off_are_there(asked: str) -> None:
    subprocess.run([sys.executable, "-c", PARTS.format(asked)], check=True)


def test_training_and_drawing_do_without_them_and_what_needs_them_finds_them() -> None:
    made = subprocess.run(
        [sys.executable, "-c", ENTRIES], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == "[]"
    assert UNNEEDED
