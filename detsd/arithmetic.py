"""What the last bits of a result follow from, besides the numbers that go in."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PROCESSORS = Path("/proc/cpuinfo")
# Of its lines: what libraries choose their kernels and the sizes of their blocks by.
TELLING = ("model name", "cache size", "flags", "CPU implementer", "CPU part", "Features")
# Variables by which they choose otherwise.
CHOOSING = ("ATEN_", "CUBLAS_", "CUDNN_", "DNNL_", "MKL_", "NVIDIA_TF32", "ONEDNN_", "TORCH_ALLOW_")


def arithmetic(device: torch.device) -> dict[str, Any]:
    """Return all of it that can be told: libraries, device, and how they are set."""
    return {
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": processor(),
        "onednn": torch.backends.mkldnn.enabled,
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "variables": {key: os.environ[key] for key in sorted(os.environ) if _chooses(key)},
        **(_gpu(device) if device.type == "cuda" else {}),
    }


def _chooses(variable: str) -> bool:
    return variable.startswith(CHOOSING)


def _gpu(device: torch.device) -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": [cudnn.version(), cudnn.enabled, cudnn.benchmark, cudnn.deterministic],
        "tf32": cudnn.allow_tf32,
    }


def processor() -> list[str]:
    """Return what the system says of its first processor."""
    try:
        first = PROCESSORS.read_text().split("\n\n", 1)[0]
    except OSError:
        return [platform.machine(), platform.processor()]
    return [line for line in first.splitlines() if line.startswith(TELLING)]
