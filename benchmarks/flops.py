"""How much arithmetic a sample takes, and how much a device can do."""

import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from detsd.config import ModelConfig, read
from detsd.pretrained import load_model

# FLOP/s of dense bf16 products, as their maker says.
NOMINAL = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
SIDE = 2048
SECONDS = 1.0


def flops_of_sample(folder: Path, pixels: int, method: str) -> float:
    """Return the floating-point operations of a sample, forward and backward."""
    model = load_model(
        read(ModelConfig, {"pretrained_model_name_or_path": str(folder)}), torch.device("cpu")
    )
    if method == "lora":
        model.unet.requires_grad_(True)  # nearly: the adapter's products are small beside these
    side = pixels // model.vae_factor
    noisy = torch.zeros(1, 4, side, side)
    embeddings = [encoder.module.get_input_embeddings() for encoder in model.encoders]
    for embedding in embeddings:
        embedding.weight.requires_grad_(method == "textual_inversion")
    with FlopCounterMode(display=False) as counter:
        told = model.encode_prompts(["logo"])
        origins = torch.tensor([[pixels, pixels, 0, 0]])
        model.predict(noisy, torch.tensor([500]), told, origins).sum().backward()
    if method == "lora":  # of which the gradients of weights, a third, are not computed
        return counter.get_total_flops() * 2 / 3
    return float(counter.get_total_flops())


def peak_of_device(precision: str) -> tuple[str, float]:
    """Return what the device can do in a second, and where that is from."""
    if torch.cuda.is_available() and precision == "bf16":
        name = torch.cuda.get_device_name()
        for known, peak in NOMINAL.items():
            if known in name:
                return f"nominal, {name}", peak
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.randn(SIDE, SIDE, device=device, dtype=dtype)
    torch.mm(matrix, matrix)
    done, begun = 0, time.monotonic()
    while time.monotonic() - begun < SECONDS:
        torch.mm(matrix, matrix).sum().item()
        done += 1
    rate = done * 2 * SIDE**3 / (time.monotonic() - begun)
    return f"a product of matrices of {SIDE}", rate
