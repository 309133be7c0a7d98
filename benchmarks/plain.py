"""A grid's images as a plain script draws them: python -m benchmarks.plain GRID.yaml --out FOLDER

Diffusers' own pipeline, called once an image, and each image saved as it comes: what
`benchmarks.generate` compares ours with.
"""

import argparse
from itertools import product
from pathlib import Path

import torch
import yaml
from diffusers import DDIMScheduler, DiffusionPipeline


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="GRID.yaml", help="as generate_grid.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args()
    hparams = yaml.safe_load(given.file.read_text())["hyperparameters"]
    on_gpu, sweep = torch.cuda.is_available(), hparams["sweep"]
    half = on_gpu and hparams["pipeline"]["use_fp16"]
    pipeline = DiffusionPipeline.from_pretrained(
        hparams["pipeline"]["pretrained_model_name_or_path"],
        torch_dtype=torch.float16 if half else torch.float32,
    ).to("cuda" if on_gpu else "cpu")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    if concept := hparams.get("local_checkpoint_paths"):
        pipeline.load_textual_inversion(concept)
    pipeline.set_progress_bar_config(disable=True)
    (given.out / "images").mkdir(parents=True)
    seeds = range(sweep["seed"]["first"], sweep["seed"]["first"] + sweep["seed"]["count"])
    axes = (sweep["prompt"], sweep["guidance_scale"], seeds)
    for number, (prompt, scale, seed) in enumerate(product(*axes)):
        image = pipeline(
            prompt,
            guidance_scale=scale,
            num_inference_steps=sweep["steps"],
            # The noise of a seed is then the same on every device, as it is in ours.
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        image.save(given.out / "images" / f"{number:06d}.png")


if __name__ == "__main__":
    main()
