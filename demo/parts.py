"""How each part of the demo's model is trained on the world. This file knows their losses."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from demo.subjects import Shape
from demo.training import Losses, Plan, train
from demo.world import caption, scene, wrong_captions

SILENT = 0.1  # of the captions are left out, which is what guidance needs
WRONG = 3  # captions beside each right one, for the scorer
OUTLINES = 0.6  # of its pictures are of a plain shape, beside those that are by chance
SNR = 5.0  # noise levels with a clearer picture than that count no more


@dataclass(frozen=True)
class Shop:
    """What all parts are trained with."""

    pictures: np.ndarray  # (count, side, side, 3), 0 to 255
    tokenizer: CLIPTokenizer
    device: torch.device
    seed: int
    work: Path  # for what only a later run needs
    out: Path  # where the model grows

    def random(self, step: int, part: int) -> np.random.Generator:
        """The chances of one step of one part."""
        return np.random.default_rng([self.seed, part, step])

    def pixels(self, chosen: np.ndarray) -> torch.Tensor:
        """Some pictures as a VAE takes them: (count, 3, side, side), -1 to 1."""
        pixels = torch.from_numpy(self.pictures[chosen]).to(self.device)
        return pixels.permute(0, 3, 1, 2).bfloat16() / 127.5 - 1

    def tokens(self, texts: Sequence[str], padding: str = "max_length") -> torch.Tensor:
        """Their ids: (count, length)."""
        ids = self.tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")
        return ids["input_ids"].to(self.device)

    def normal(self, random: np.random.Generator, shape: Sequence[int]) -> torch.Tensor:
        """Noise that follows from the step."""
        drawn = torch.Generator(self.device).manual_seed(int(random.integers(2**62)))
        return torch.randn(tuple(shape), generator=drawn, device=self.device)


def train_vae(vae: AutoencoderKL, shop: Shop, plan: Plan) -> float:
    """Pictures to latents and back; at the end the latents are given a spread of one."""
    vae.to(shop.device)
    if (shop.out / "unet").exists():  # it knows these latents: only the way back may change
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def losses_at(step: int) -> Losses:
        random = shop.random(step, part=0)
        pixels = shop.pixels(random.integers(len(shop.pictures), size=plan.batch))
        latents = vae.encode(pixels).latent_dist
        noise = shop.normal(random, latents.mean.shape)
        off = vae.decode(latents.mean + latents.std * noise.bfloat16()).sample.float() - pixels
        # Errors of neighbouring pixels that differ are what plain errors let blur.
        edges = off.diff(dim=2).abs().mean() + off.diff(dim=3).abs().mean()
        kl = latents.kl().mean() / latents.mean[0].numel()
        return {"pixels": off.abs().mean(), "edges": edges / 2, "kl": 3e-4 * kl}

    def keep(averaged: Sequence[Any]) -> None:
        kept = averaged[0]
        spread = _encode(copy.deepcopy(kept).float(), shop, min(200, len(shop.pictures)))[0].std()
        kept.register_to_config(scaling_factor=1 / float(spread))
        kept.save_pretrained(shop.out / "vae")

    return train([vae], plan, losses_at, shop.work / "vae.pt", keep)


def train_unet(
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    vae: AutoencoderKL,
    levels: DDPMScheduler,
    shop: Shop,
    plan: Plan,
) -> float:
    """The denoiser and, with it, the encoder of its captions."""
    unet.to(shop.device)
    text.to(shop.device)
    if shop.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # faster there on latents this small
    mean, std = _cached(vae.to(shop.device), shop)
    signal = levels.alphas_cumprod.to(shop.device)
    ratio = signal / (1 - signal)
    weights = ratio.clamp(max=SNR) / (ratio + 1)

    def losses_at(step: int) -> Losses:
        random = shop.random(step, part=1)
        chosen = random.integers(len(mean), size=plan.batch // 2)
        # Each picture at two noise levels: the text encoder costs half, and a step sees more.
        states = text(shop.tokens(_captions(random, chosen, SILENT))).last_hidden_state
        states, twice = states.repeat(2, 1, 1), np.tile(chosen, 2)
        clean = mean[twice].float()
        clean = clean + std[twice].float() * shop.normal(random, clean.shape)
        noise = shop.normal(random, clean.shape)
        times = _spread(random, len(twice), len(signal)).to(shop.device)
        noisy = levels.add_noise(clean, noise, times)
        wanted = levels.get_velocity(clean, noise, times)
        made = unet(noisy.bfloat16(), times, states, return_dict=False)[0].float()
        errors = (made - wanted).square().mean(dim=(1, 2, 3))
        return {"noise": (errors * weights[times]).mean()}

    def keep(averaged: Sequence[Any]) -> None:
        averaged[0].save_pretrained(shop.out / "unet")
        averaged[1].save_pretrained(shop.out / "text_encoder")
        fp32_in_memory(shop.out / "text_encoder")

    return train([unet, text], plan, losses_at, shop.work / "unet.pt", keep)


def train_scorer(scorer: CLIPModel, shop: Shop, plan: Plan) -> float:
    """Which of a batch's captions belongs to which of its pictures."""
    scorer.to(shop.device)
    if shop.device.type == "cpu":
        scorer.set_attn_implementation("eager")
    mean = torch.tensor(OPENAI_CLIP_MEAN, device=shop.device, dtype=torch.bfloat16)[:, None, None]
    std = torch.tensor(OPENAI_CLIP_STD, device=shop.device, dtype=torch.bfloat16)[:, None, None]

    count = len(shop.pictures)
    plain = np.flatnonzero([isinstance(scene(number).subject, Shape) for number in range(count)])

    def losses_at(step: int) -> Losses:
        random = shop.random(step, part=2)
        chosen = random.integers(count, size=plan.batch)
        # Outlines are what it is slowest to see: plain shapes come up more often than they are.
        often = random.random(plan.batch) < OUTLINES
        chosen = np.where(often, random.choice(plain, plan.batch), chosen)
        pixels = ((shop.pixels(chosen) + 1) / 2 - mean) / std
        variants = random.integers(1000, size=len(chosen))
        pairs = list(zip(chosen.tolist(), variants.tolist(), strict=True))
        right = [caption(*pair) for pair in pairs]
        # Beside the others' captions each picture gets its own with one thing wrong in it: colours
        # and grounds tell pictures of a batch apart, and shapes would never have to be looked at.
        wrong = [text for pair in pairs for text in wrong_captions(*pair, WRONG)]
        ids = shop.tokens([*right, *wrong], padding="longest")
        logits = scorer(input_ids=ids, pixel_values=pixels).logits_per_image.float()
        for place, text in enumerate(wrong):
            if text == right[place // WRONG]:  # then it is not wrong
                logits[place // WRONG, len(right) + place] = -torch.inf
        found = torch.arange(len(right), device=shop.device)
        to_text = F.cross_entropy(logits, found)
        to_picture = F.cross_entropy(logits[:, : len(right)].T, found)
        return {"scorer": (to_text + to_picture) / 2}

    def keep(averaged: Sequence[Any]) -> None:
        averaged[0].save_pretrained(shop.out / "scorer")
        side = shop.pictures.shape[1]
        CLIPImageProcessor(size=side, crop_size=side).save_pretrained(shop.out / "scorer")
        shop.tokenizer.save_pretrained(shop.out / "scorer")
        fp32_in_memory(shop.out / "scorer")

    return train([scorer], plan, losses_at, shop.work / "scorer.pt", keep)


def fp32_in_memory(folder: Path) -> None:
    """Say so in the config: half precision is for the disk, and diffusers' own parts agree."""
    config = folder / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "dtype": "float32"}, indent=2) + "\n")


def _captions(random: np.random.Generator, chosen: np.ndarray, silent: float = 0) -> list[str]:
    variants, chances = random.integers(1000, size=len(chosen)), random.random(len(chosen))
    return [
        "" if chance < silent else caption(int(number), int(variant))
        for number, variant, chance in zip(chosen, variants, chances, strict=True)
    ]


def _spread(random: np.random.Generator, count: int, levels: int) -> torch.Tensor:
    """One noise level from each of count equal parts of their range, shuffled."""
    places = (np.arange(count) + random.random(count)) / count
    return torch.from_numpy(random.permutation((places * levels).astype(np.int64)))


def _cached(vae: AutoencoderKL, shop: Shop) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents' mean and std of every picture, as the UNet takes them."""
    weights = (shop.out / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    seen = sha256(weights + shop.pictures[:: max(1, len(shop.pictures) // 100)].tobytes())
    path = shop.work / f"latents-{len(shop.pictures)}-{seen.hexdigest()[:12]}.pt"
    if not path.exists():
        part = path.with_suffix(".part")
        encoded = _encode(vae.bfloat16(), shop, len(shop.pictures))
        torch.save([(values * vae.config.scaling_factor).half() for values in encoded], part)
        part.replace(path)
    mean, std = torch.load(path, map_location=shop.device, weights_only=True)
    return mean, std


@torch.no_grad()
def _encode(vae: AutoencoderKL, shop: Shop, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    means, stds = [], []
    for start in tqdm(range(0, count, 100), desc="encoding, 100 each", disable=count <= 200):
        pixels = shop.pixels(np.arange(start, min(start + 100, count))).to(vae.dtype)
        latents = vae.encode(pixels).latent_dist
        means.append(latents.mean.float())
        stds.append(latents.std.float())
    return torch.cat(means), torch.cat(stds)
