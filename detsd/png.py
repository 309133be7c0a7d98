"""An image as a PNG that says how it was made. This file knows what viewers look for in one."""

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from detsd.checkpoints import name_of

OURS = "detsd"


def encode(image: Image.Image, record: Mapping[str, Any]) -> bytes:
    """Return the file's bytes, with the record in it: for people's viewers, and whole for us."""
    about = PngInfo()
    # Viewers of generation parameters read this key, in the form that the AUTOMATIC1111 UI has.
    about.add_itxt("parameters", parameters(record))
    about.add_itxt(OURS, json.dumps(record, sort_keys=True, ensure_ascii=False))
    held = io.BytesIO()
    image.save(held, "PNG", pnginfo=about)
    return held.getvalue()


def parameters(record: Mapping[str, Any]) -> str:
    """Return the settings as one paragraph: the prompt, then a line of names and values."""
    width, height = record["size"]
    settings = {
        "Steps": record["steps"],
        "Sampler": record["scheduler"],
        "CFG scale": record["guidance_scale"],
        "Seed": record["seed"],
        "Size": f"{width}x{height}",
        "Model": str(record["model"]).replace(",", " "),
        "Version": "detsd",
    }
    adapters = [
        f" <lora:{name_of(source)}:{scale:g}>"
        for source, scale in record["adapters"].items()
        if scale
    ]
    lines = ["".join([record["prompt"], *adapters])]
    if record["negative_prompt"]:
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines)
