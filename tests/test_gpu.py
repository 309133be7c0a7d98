"""What holds on a GPU: it comes to what a CPU does, waits for nothing, makes do with its memory.

DETSD_TEST_DEVICE=cpu runs the same on a CPU, to see that a test says what it means to.
"""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from detsd.compiling import CACHE_VARIABLE
from detsd.finetune import finetune
from detsd.generate import load_pipeline
from detsd.methods import Method
from detsd.processes import Processes
from detsd.trial import Trial
from tests.conftest import ROOT, read_lines
from tests.trials import CLASS, EVERYTHING, FULL, LORA, changed, learnt, run

pytestmark = pytest.mark.gpu

# How far a loss may be from a CPU's in fp32: convolutions on a GPU round to TF32 by default.
TOLERANCE = {"fp32": 2e-3, "bf16": 2e-2}
METHODS: dict[str, dict[str, Any]] = {
    "words": {"kind": "textual_inversion"},
    "lora": LORA,
    "full": {"kind": "full"},
}
DRAWN = "a photo of a red star", "a photo of a det-logo"


@pytest.fixture
def device() -> torch.device:
    return torch.device(os.environ.get("DETSD_TEST_DEVICE", "cuda"))


@pytest.fixture(autouse=True)
def memory_of_its_own(device) -> Iterator[None]:
    """Let no test find what another has left."""
    yield
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def without_gpu() -> Iterator[None]:
    """Let a trial find none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def reported(folder, name="loss", group="training"):
    """Return each value that a run reported of something."""
    lines = read_lines(folder / "metrics.jsonl")
    return [line["metrics"][name] for line in lines if line["group"] == group]


def apart(one, other):
    """Return how far apart two runs' tensors have come, beside how far they came at all."""
    first, second = learnt(one), learnt(other)
    between = moved = 0.0
    for name, value in first.items():
        # What has no start of its own began as zeros, if it is a LoRA's second factor.
        start = first.get(f"{name}@start", torch.zeros(0 if not name.endswith(".up") else 1))
        count = start.numel() if start.numel() > 1 else value.numel() * start.numel()
        here, there = value.flatten()[:count], second[name].flatten()[:count]
        between += (here - there).square().sum().item()
        moved += (here - start.flatten()).square().sum().item() if count else 0.0
    return (between / moved) ** 0.5


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("method", METHODS)
def test_losses_are_a_cpus(tmp_path, hparams, device, method, precision):
    hparams["method"] = METHODS[method]
    slow = changed(hparams, training__learning_rate=1e-6, training__metric_report_freq=1)
    with without_gpu():
        wanted = reported(run(tmp_path / "cpu", changed(slow, training__precision="fp32")))
    found = reported(run(tmp_path / "gpu", changed(slow, training__precision=precision)))
    assert len(wanted) == 6
    assert found == pytest.approx(wanted, rel=TOLERANCE[precision])


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_as_a_straight_one(tmp_path, hparams, device, method):
    hparams["method"] = METHODS[method]
    straight = run(tmp_path / "straight", hparams)
    run(tmp_path / "stopped", hparams, stop_at=3)
    resumed = run(tmp_path / "stopped", hparams)
    assert reported(resumed)[-1] == pytest.approx(reported(straight)[-1], rel=1e-4)
    if device.type == "cpu" or method != "full":
        # Sums that GPUs take in any order differ in their last bits, which Adam's first steps make
        # as large as all others where a gradient is next to nothing: so it is of most weights.
        assert apart(resumed, straight) < 0.02


WAITS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str]] = {
    "words": ({"kind": "textual_inversion"}, None, "sd1"),
    "words of SDXL": ({"kind": "textual_inversion"}, None, "sdxl"),
    "lora with everything": (EVERYTHING, CLASS, "sd1"),
    "lora that distils": (LORA, {"kind": "distill", "class_prompt": "a photo of a logo"}, "sd1"),
    "full": (FULL, None, "sd1"),
}


@pytest.mark.parametrize("what", WAITS)
def test_a_step_waits_for_nothing(tmp_path, make, device, what):
    method, prior, family = WAITS[what]
    more = {"metric_report_freq": 8, "checkpoint_freq": 8, "max_grad_norm": 1.0}
    hparams = make(method, prior, family, num_sgd_steps=8, micro_batch_size=2, **more)
    hparams["concepts"]["learnable_properties"] = "object"
    seen = []

    def watched(trial):
        progress = trial.progress

        def watch(step, target):
            # After the first steps, in which things are made that last, and until the report.
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error" if 3 <= step < 7 else "default")
            seen.append(step)
            progress(step, target)

        trial.progress = watch
        finetune(trial)

    try:
        run(tmp_path / "run", hparams, watched)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert seen == list(range(1, 9))


def test_a_step_that_waits_would_be_found(device):
    if device.type == "cpu":
        pytest.skip("a CPU does what it is asked at once")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1, device=device).item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_out_of_memory_is_met_with_smaller_pieces(tmp_path, hparams, device, caplog):
    caplog.set_level(logging.INFO)
    large = changed(
        hparams,
        concepts__img_size=128,
        training__train_batch_size=16,
        training__num_sgd_steps=2,
        training__micro_batch_size=64,
        training__precision="fp32",
    )
    small = changed(large, training__micro_batch_size=8)
    (whole, most), (pieces, least) = (
        measured(run, tmp_path / name, one, device=device)
        for name, one in (("whole", large), ("pieces", small))
    )
    assert reported(pieces)[-1] == pytest.approx(reported(whole)[-1], rel=1e-3)
    assert "out of memory" not in caplog.text
    with memory_of((most + least) // 2, device):
        tight = run(tmp_path / "tight", large)
    assert "out of memory: on with micro-batches of" in caplog.text
    assert reported(tight)[-1] == pytest.approx(reported(whole)[-1], rel=1e-3)


def measured(work, *arguments, device):
    """Return what the work returns, and the bytes that it had of the device at once."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    result = work(*arguments)
    return result, torch.cuda.max_memory_reserved() if device.type == "cuda" else 0


@contextmanager
def memory_of(size, device):
    """Let this process have so many bytes of the device, and no more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(size / torch.cuda.mem_get_info()[1])
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    losses = Method.losses

    def too_small(self, model, batch):
        if len(batch.captions) > 8:
            raise torch.OutOfMemoryError
        return losses(self, model, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "losses", too_small)
        yield


def test_the_memory_that_was_taken_is_reported(tmp_path, hparams, device):
    folder = run(tmp_path / "run", hparams)
    peaks = reported(folder, "peak_memory_gb")
    weights = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.safetensors"))
    assert all(weights / 1e9 < peak < 64 for peak in peaks)
    if device.type == "cuda":
        assert peaks[-1] == pytest.approx(torch.cuda.max_memory_allocated() / 1e9, rel=0.5)


@pytest.fixture
def alone(tmp_path, device) -> Iterator[None]:
    """Open a group of one process, over what several would talk over."""
    over = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    meeting = f"file://{tmp_path}/meeting"
    distributed.init_process_group(over, init_method=meeting, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("flag", [False, True])
def test_a_flag_comes_with_the_gradients(alone, device, flag):
    gradients = torch.arange(5.0, device=device)
    sums, heard = Processes(0, 1, device).total_and_flag(gradients, flag)
    assert sums.device.type == device.type and sums.tolist() == [0, 1, 2, 3, 4]
    assert heard.read() == flag


def test_a_stop_is_heard_a_step_later_without_waiting_for_it(alone, device, tmp_path):
    trial = Trial(Processes(0, 2, device), {}, 2, None, tmp_path, tmp_path)
    trial.wishes_to_stop = lambda: True
    heeded = []
    trial.heed = lambda: heeded.append(True)
    heard = []
    for _ in range(2):
        trial.total_of_step(torch.ones(3, device=device))
        with waiting_is_an_error(device) if not heard else nullcontext():
            heard.append(trial.should_stop_after_step())
    assert heard == [device.type == "cpu", True]
    assert len(heeded) == sum(heard)


@contextmanager
def waiting_is_an_error(device):
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_two_gpus_learn_what_one_does(cli, experiment, device):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    file = str(cli.write(experiment))
    for count in ("1", "2"):
        cli(file, "--processes", count, "--out", f"on-{count}")
    one, two = (cli.folder / f"on-{count}" for count in ("1", "2"))
    assert reported(two) == pytest.approx(reported(one), rel=1e-4)
    assert apart(two, one) < 0.02


def test_images_are_a_cpus(device):
    drawn = []
    for place in ("cpu", device):
        concept = ROOT / "demo" / "det-logo.safetensors"
        pipeline = load_pipeline(ROOT / "demo" / "model", concepts=concept, device=place)
        images = pipeline(DRAWN, seed=3, count=2, steps=10, scheduler="ddim")
        drawn.append(np.stack([np.asarray(image).astype(int) for image in images]))
    wanted, found = drawn
    assert wanted.std() > 20  # there is something on them
    assert np.abs(found - wanted).mean() < 4  # of 255


def test_eight_bits_learn_nearly_what_all_do(tmp_path, make, device):
    pytest.importorskip("bitsandbytes")
    whole = run(tmp_path / "whole", make({"kind": "full"}, optimizer_name="adamw"))
    eighth = make({"kind": "full"}, optimizer_name="adamw8bit")
    straight = run(tmp_path / "straight", eighth)
    assert reported(straight)[-1] == pytest.approx(reported(whole)[-1], rel=0.1)
    run(tmp_path / "stopped", eighth, stop_at=2)
    resumed = run(tmp_path / "stopped", eighth)
    assert reported(resumed)[-1] == pytest.approx(reported(straight)[-1], rel=1e-2)
    kept = torch.load(
        sorted((straight / "checkpoints").iterdir())[-1] / "resume/state.pt", weights_only=True
    )
    states = kept["optimizer"].values()
    kinds = {value.dtype for one in states for value in one.values() if torch.is_tensor(value)}
    assert torch.uint8 in kinds


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("what", ["blocks", "full", "graph"])
def test_compiled_it_is_the_same(tmp_path, hparams, device, what, precision, monkeypatch, caplog):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    plain = changed(hparams, training__precision=precision, training__num_sgd_steps=2)
    wanted = reported(run(tmp_path / "plain", plain))
    found = reported(run(tmp_path / what, changed(plain, training__compile=what)))
    assert found == pytest.approx(wanted, rel=TOLERANCE[precision])
    assert "the usual way" not in caplog.text  # which a UNet goes that could not be recorded
