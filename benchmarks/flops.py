"""How much arithmetic a sample or an image takes, and how much a device can do."""

import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from detsd.config import ModelConfig, read
from detsd.pretrained import DTYPES, load_model

# FLOP/s of dense products in half precision, as their maker says.
NOMINAL = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
SIDE = 2048
SECONDS = 1.0


def flops_of_sample(folder: Path, pixels: int, method: str) -> float:
    """Return the floating-point operations of a sample, forward and backward."""
    device = torch.device("meta")  # how many there are is told by the shapes
    model = load_model(read(ModelConfig, {"pretrained_model_name_or_path": str(folder)}), device)
    if method == "lora":
        model.unet.requires_grad_(True)  # nearly: the adapter's products are small beside these
    side = pixels // model.vae_factor
    noisy = torch.zeros(1, 4, side, side, device=device)
    timestep = torch.tensor([500], device=device)
    embeddings = [encoder.module.get_input_embeddings() for encoder in model.encoders]
    for embedding in embeddings:
        embedding.weight.requires_grad_(method == "textual_inversion")
    with FlopCounterMode(display=False) as counter:
        told = model.encode_prompts(["logo"])
        origins = torch.zeros(1, 4, dtype=torch.long, device=device)
        model.predict(noisy, timestep, told, origins).sum().backward()
    if method == "lora":  # of which the gradients of weights, a third, are not computed
        return counter.get_total_flops() * 2 / 3
    return float(counter.get_total_flops())


@torch.no_grad()
def flops_of_image(folder: Path, pixels: int, steps: int, guided: bool) -> float:
    """Return the floating-point operations of an image: of its prompt, its steps and its VAE."""
    device = torch.device("meta")
    model = load_model(read(ModelConfig, {"pretrained_model_name_or_path": str(folder)}), device)
    model.vae.to(device)
    side = pixels // model.vae_factor
    latents = torch.zeros(1, 4, side, side, device=device)
    timestep = torch.tensor([500], device=device)
    origins = torch.zeros(1, 4, dtype=torch.long, device=device)
    with FlopCounterMode(display=False) as of_prompt:
        told = model.encode_prompts(["logo"])
    with FlopCounterMode(display=False) as of_step:
        model.predict(latents, timestep, told, origins)
    with FlopCounterMode(display=False) as of_vae:
        model.decode_latents(latents)
    prompt, step, vae = (one.get_total_flops() for one in (of_prompt, of_step, of_vae))
    return float((prompt + steps * step) * (2 if guided else 1) + vae)


def use_of_device(work: float, rate: float, precision: str, what: str) -> dict[str, Any]:
    """Return and print what of the device's arithmetic was used by so many of these a second."""
    whence, peak = peak_of_device(precision)
    print(
        f"ours: {work / 1e12:.3g} TFLOP {what}, {work * rate / 1e12:.3g} TFLOP/s: "
        f"{work * rate / peak:.0%} of {peak / 1e12:.3g} ({whence})"
    )
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        f"tflop_{what}".replace(" ", "_"): work / 1e12,
        "tflops": work * rate / 1e12,
        "peak_tflops": peak / 1e12,
        "peak": whence,
    }


def peak_of_device(precision: str) -> tuple[str, float]:
    """Return what the device can do in a second, and where that is from."""
    if torch.cuda.is_available() and precision != "fp32":
        name = torch.cuda.get_device_name()
        for known, peak in NOMINAL.items():
            if known in name:
                return f"nominal, {name}", peak
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    matrix = torch.randn(SIDE, SIDE, device=device, dtype=DTYPES[precision])
    torch.mm(matrix, matrix)
    done, begun = 0, time.monotonic()
    while time.monotonic() - begun < SECONDS:
        torch.mm(matrix, matrix).sum().item()
        done += 1
    rate = done * 2 * SIDE**3 / (time.monotonic() - begun)
    return f"a product of matrices of {SIDE}", rate
