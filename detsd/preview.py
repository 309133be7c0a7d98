"""What a grid will take, found out with a few of its images."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from detsd.config import GridConfig, read
from detsd.console import duration
from detsd.jobs import check_jobs, list_jobs, passes
from detsd.materials import read_stock
from detsd.png import encode
from detsd.studio import open_studio

TRIED = 8  # images


def preview(points: Sequence[Mapping[str, Any]], slots: int, processes: int) -> str:
    """Draw a few images of the first point; say how many there are, how long, how many bytes."""
    configs = [read(GridConfig, point) for point in points]
    stocks = [read_stock(config) for config in configs]
    grids = [list_jobs(config, stock, slots) for config, stock in zip(configs, stocks, strict=True)]
    for config, jobs in zip(configs, grids, strict=True):
        check_jobs(config, jobs)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    studio = open_studio(configs[0], stocks[0], device)
    # Of all cells, but of one model: others would take time to load, which their images do not.
    alike = [job for job in grids[0] if job.materials.model == grids[0][0].materials.model]
    tried = alike[:: -(-len(alike) // TRIED)]
    list(studio.draw(tried[:1]))  # the first one is slower than any other
    begun = time.monotonic()
    sizes = [len(encode(image, record)) for record, image in studio.draw(tried)]
    seconds = (time.monotonic() - begun) / sum(map(passes, tried))
    count = sum(map(len, grids))
    # Processes share a CPU, which one of them keeps busy too.
    shares = processes if device.type == "cuda" else 1
    takes = duration(seconds * sum(map(passes, itertools.chain(*grids))) / shares)
    megabytes = sum(sizes) / len(sizes) * count / 1e6
    return (
        f"{count} images in {sum(len({job.wanted.cell for job in jobs}) for jobs in grids)} cells: "
        f"about {takes} on {processes} × {device.type}, {megabytes:.1f} MB"
    )
