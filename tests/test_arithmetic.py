"""What the last bits follow from is told, and told apart."""

import json

import pytest
import torch

from detsd import arithmetic

CPU = torch.device("cpu")


def now() -> str:
    return json.dumps(arithmetic.arithmetic(CPU), sort_keys=True)


def test_it_is_the_same_from_call_to_call_and_names_the_processor(monkeypatch, tmp_path):
    assert now() == now()
    assert torch.__version__ in now() and "diffusers" in now()
    monkeypatch.setattr(arithmetic, "PROCESSORS", tmp_path / "none")  # as on a Mac
    assert arithmetic.arithmetic(CPU)["processor"]
    (tmp_path / "some").write_text("model name: A\ncpu MHz: 1\n\nmodel name: A\ncpu MHz: 2\n")
    monkeypatch.setattr(arithmetic, "PROCESSORS", tmp_path / "some")
    assert arithmetic.arithmetic(CPU)["processor"] == ["model name: A"]


def test_threads_settings_and_variables_are_part_of_it(monkeypatch):
    before = now()
    found = {before}
    torch.set_num_threads(2)
    try:
        found.add(now())
    finally:
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    try:
        found.add(now())
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(True)
    try:
        found.add(now())
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found.add(now())
    monkeypatch.undo()
    monkeypatch.setenv("LC_ALL", "C")
    found.add(now())
    assert len(found) == 5 and now() == before


@pytest.mark.gpu
def test_a_gpu_is_named():
    told = arithmetic.arithmetic(torch.device("cuda", 0))
    assert told["gpu"] == torch.cuda.get_device_name(0) and told["cudnn"]
