"""What the images of a large grid cost the chief: python -m benchmarks.keeping --images 100000

Real stores are filled with small PNGs, a tenth of the images in one and all of them in another, and
each thing that a grid does with its store is timed in both: what grows more than tenfold, grows
faster than the grid. Nothing is drawn. Seconds are the processor's, so that a busy machine does not
count; what a disk takes beside them is in the JSON, as `wall`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from detsd.foldertrial import open_folder_trial
from detsd.imagestore import INDEX, ImageStore, Record, open_store
from detsd.page import PAGE, write_page
from detsd.png import encode
from detsd.runfolder import identify
from detsd.sheets import show_sheets

SEEDS = 40  # a cell, as in generate_grid.yaml
ROUND = 16 * 64  # images between two looks at what is unsaved: a batch of each of 64 processes


def main() -> None:
    """Print the seconds of each thing, at a tenth of the images and at all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64, help="of an image, in pixels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="to write the figures to, too")
    given = parser.parse_args()
    counts = (given.images // 10, given.images)
    with tempfile.TemporaryDirectory() as scratch:
        few, all_ = (measure(Path(scratch) / str(count), count, given.side) for count in counts)
    print(f"{'':28} {counts[0]:>10,} {counts[1]:>10,}")
    for name, seconds in all_["seconds"].items():
        growth = seconds / max(few["seconds"][name], 1e-9)
        print(f"{name:28} {few['seconds'][name]:>9.3f}s {seconds:>9.3f}s  {growth:5.1f} ×")
    for name, size in all_["bytes"].items():
        print(f"{name:28} {few['bytes'][name] / 1e6:>8.2f}MB {size / 1e6:>8.2f}MB")
    if given.json:
        figures = {"side": given.side, "at": [few, all_]}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(folder: Path, count: int, side: int) -> dict[str, Any]:
    """Fill a store, and do with it what a grid does; return the seconds of each, and sizes."""
    seconds: dict[str, float] = {}
    wall: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> None:
        begun, since = time.process_time(), time.perf_counter()
        work()
        seconds[name] = time.process_time() - begun
        wall[name] = time.perf_counter() - since

    records = [record_of(number, side) for number in range(count)]
    png = encode(Image.effect_noise((side, side), 64).convert("RGB"), records[0])
    store = ImageStore(folder, [])
    timed("add, all", lambda: [store.add(record, png) for record in records])
    timed("records", lambda: store.records)
    timed("unsaved, counted", lambda: len(store.unsaved))
    timed("page", lambda: write_page(folder, "images"))
    timed("sheets, all cells new", lambda: show(folder, store))
    first, last = folder / "first", folder / "last"
    for part in (first, last):
        part.mkdir()
    timed("checkpoint, all new", lambda: store.write_checkpoint(first))
    timed("noted as saved", lambda: store.saved("step-000001"))
    for number in range(count, count + min(ROUND, count // 10)):
        store.add(record_of(number, side), png)
    timed("checkpoint, a round new", lambda: store.write_checkpoint(last))
    timed("sheets, a round new", lambda: show(folder, store))
    timed("arrange", lambda: store.arrange({record["id"]: record["cell"] for record in records}))
    timed("open again", lambda: open_store(folder, None, ""))
    sizes = {
        "index": (folder / INDEX).stat().st_size,
        "page": (folder / PAGE).stat().st_size,
        "png": len(png),
    }
    return {"images": count, "seconds": seconds, "wall": wall, "bytes": sizes}


def record_of(number: int, side: int) -> Record:
    """Return what an index says of an image, as a grid of Stable Diffusion writes it."""
    return {
        "id": f"{number:012x}",
        "file": f"images/{number:06d}-{number:012x}.png",
        "cell": number // SEEDS,
        "prompt": f"a photo of a det-logo on the moon, number {number // SEEDS}",
        "negative_prompt": "",
        "checkpoints": ["runs/finetune_const/checkpoints/step-000500"],
        "model": "/models/stable-diffusion-v1-4",
        "adapters": {},
        "scheduler": "ddim",
        "steps": 50,
        "guidance_scale": 7.5,
        "size": [side, side],
        "seed": number % SEEDS,
        "seconds": 0.2,
        "flags": [],
        "metrics": {"prompt_adherence": 0.25, "fidelity": 0.75},
    }


def show(folder: Path, store: ImageStore) -> None:
    """Show the cells that have grown, as a trial of one process does."""
    identify(folder)
    with open_folder_trial(
        folder,
        hparams={},
        slots=1,
        searcher={},
        place={},
        warm_start=None,
        rendezvous="env://",
    ) as trial:
        show_sheets(trial, store, 1)


if __name__ == "__main__":
    main()
