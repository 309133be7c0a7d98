"""Trains the demo's model on the demo's world, part by part, each from where it stands.

    python -m demo.pretrain                              all parts, in turn
    python -m demo.pretrain unet --steps 20000           the UNet and its text encoder alone
    python -m demo.pretrain --out /tmp/model --steps 20  anew, and at once

A run that was stopped goes on where it was. One that is done, with more steps too; another
machine begins with the weights that lie in --out.
"""

import argparse
import json
import math
import os
import platform
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from demo import architecture, parts
from demo.pool import pictures
from demo.training import Plan
from demo.vocabulary import build_tokenizer

BESIDE = Path(__file__).resolve().parent
PLANS = {
    "vae": Plan(steps=6000, batch=8, learning_rate=1e-3, decay=0.998),
    "unet": Plan(steps=17000, batch=48, learning_rate=8e-4),
    "scorer": Plan(steps=23000, batch=48, learning_rate=1e-3, decay=0.998),
}


def read_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PLANS)}; default: all, in turn")
    parser.add_argument("--out", type=Path, default=BESIDE / "model", help="the model's folder")
    parser.add_argument("--work", type=Path, help="what a stopped run goes on from")
    parser.add_argument("--steps", type=int, help="of each part, with those done before")
    parser.add_argument("--minutes", type=float, help="for all of it; then it can go on later")
    parser.add_argument("--batch", type=int, help="pictures a step; raise it on a GPU")
    parser.add_argument("--pictures", type=int, default=80_000, help="drawn of the world")
    parser.add_argument("--side", type=int, default=64, help="of a picture, in pixels")
    parser.add_argument("--threads", type=int, help="on a CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PLANS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PLANS)}")
    return arguments


def main() -> None:
    """Train what the command line asks for, and write the model."""
    arguments = read_arguments()
    until = time.monotonic() + 60 * (arguments.minutes or math.inf)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    out = arguments.out.resolve()
    digest = sha256(str(out).encode()).hexdigest()[:8]
    work = arguments.work or Path("runs/pretrain") / f"{out.name}-{digest}"
    shop = parts.Shop(
        pictures=pictures(
            work.parent / "pool", arguments.pictures, arguments.side, os.cpu_count() or 1
        ),
        tokenizer=load_tokenizer(out, work),
        device=torch.device(arguments.device),
        seed=arguments.seed,
        work=work,
        out=out,
    )
    left = list(arguments.parts or PLANS)
    while left:
        share = PLANS[left[0]].steps / sum(PLANS[part].steps for part in left)
        part, now = left.pop(0), time.monotonic()
        changes = {"steps": arguments.steps, "batch": arguments.batch}
        plan = replace(PLANS[part], **{key: value for key, value in changes.items() if value})
        plan = replace(plan, until=now + share * (until - now))
        if hours := train_part(part, shop, plan):
            note(part, plan, hours, shop)
    if (out / "unet").exists():
        finish(out)


def load_tokenizer(out: Path, work: Path) -> CLIPTokenizer:
    """The model's own; made once, since the weights know its numbers."""
    if not (work / "tokenizer").exists():
        known = (out / "tokenizer").exists()
        made = CLIPTokenizer.from_pretrained(out / "tokenizer") if known else build_tokenizer()
        made.save_pretrained(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    tokenizer.save_pretrained(out / "tokenizer")
    return tokenizer


def train_part(part: str, shop: parts.Shop, plan: Plan) -> float:
    """Train one part further, or a new one; return the hours that it took in all."""
    side, out = shop.pictures.shape[1], shop.out
    torch.manual_seed(shop.seed)  # a new part's weights
    plan = replace(plan, trained=(out / part).exists())
    vae = load(AutoencoderKL, out / "vae")
    if vae is not None and vae.config.sample_size != side:
        drawn = f"{out} draws {vae.config.sample_size} pixels"
        raise SystemExit(f"{drawn}: --side {side} needs another --out")
    if part == "vae":
        return parts.train_vae(vae or architecture.build_vae(side), shop, plan)
    if part == "scorer":
        scorer = load(CLIPModel, out / "scorer")
        return parts.train_scorer(
            scorer or architecture.build_scorer(shop.tokenizer, side), shop, plan
        )
    if vae is None:
        raise SystemExit(f"{out}/vae is not there: train it first, python -m demo.pretrain vae")
    unet = load(UNet2DConditionModel, out / "unet") or architecture.build_unet(side)
    text = load(CLIPTextModel, out / "text_encoder")
    text = text or architecture.build_text_encoder(shop.tokenizer)
    levels = DDPMScheduler.from_config(architecture.build_scheduler().config)
    return parts.train_unet(unet, text, vae, levels, shop, plan)


def load(kind: Any, folder: Path) -> Any:
    """What was kept there, if anything."""
    return kind.from_pretrained(folder).float() if folder.exists() else None


def note(part: str, plan: Plan, hours: float, shop: parts.Shop) -> None:
    """Add a line to the log that lies beside the weights."""
    line = {
        "part": part,
        "script": "python -m demo.pretrain",
        "steps": torch.load(shop.work / f"{part}.pt", mmap=True, weights_only=True)["step"],
        "batch": plan.batch,
        "pictures": len(shop.pictures),
        "side": shop.pictures.shape[1],
        "seed": shop.seed,
        "hardware": hardware(shop.device),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "hours": round(hours, 2),
        "date": time.strftime("%Y-%m-%d"),
    }
    with (shop.out / "training.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")


def hardware(device: torch.device) -> str:
    """In words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads, {platform.machine()} CPU"


def finish(out: Path) -> None:
    """Make one pipeline of the parts, and note what they weigh."""
    architecture.build_scheduler().save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for config in sorted(out.glob("*/config.json")):
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)  # where it lay on the machine that trained it
        config.write_text(json.dumps(values, indent=2) + "\n")
    hashes = {
        str(path.relative_to(out)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.safetensors"))
    }
    (out / "hashes.json").write_text(json.dumps(hashes, indent=2) + "\n")


if __name__ == "__main__":
    main()
