"""What a grid will take, found out with a few of its images."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from detsd.config import GridConfig, read
from detsd.console import duration
from detsd.png import encode
from detsd.studio import check_schedulers, list_jobs, open_studio
from detsd.vocabulary import read_vocabularies

TRIED = 4  # images


def preview(points: Sequence[Mapping[str, Any]], slots: int, processes: int) -> str:
    """Draw a few images of the first point; say how many there are, how long, how many bytes."""
    configs = [read(GridConfig, point) for point in points]
    vocabularies = [read_vocabularies(config) for config in configs]
    grids = [
        list_jobs(config, known, slots) for config, known in zip(configs, vocabularies, strict=True)
    ]
    for config, jobs in zip(configs, grids, strict=True):
        check_schedulers(config, jobs)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    studio = open_studio(configs[0], vocabularies[0], device)
    tried = grids[0][:TRIED]
    begun = time.monotonic()
    sizes = [len(encode(image, record)) for record, image in studio.draw(tried)]
    seconds = (time.monotonic() - begun) / len(tried)
    count = sum(map(len, grids))
    takes = duration(seconds * count / processes)
    megabytes = sum(sizes) / len(sizes) * count / 1e6
    return (
        f"{count} images in {sum(len({job.wanted.cell for job in jobs}) for jobs in grids)} cells: "
        f"about {takes} on {processes} × {device.type}, {megabytes:.1f} MB"
    )
