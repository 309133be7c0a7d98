"""Labelled sheets of a grid's cells for TensorBoard, which keeps ten images a tag: one a cell."""

import logging
import re
from collections.abc import Sequence

from PIL import Image

from detsd.gallery import sheet
from detsd.imagestore import ImageStore, Record
from detsd.trial import Trial

log = logging.getLogger(__name__)

MOST = 16  # images on a sheet
# A sheet of images of 512 pixels takes the chief two seconds, while all other processes wait.
MOST_CELLS = 100
COLUMNS = 4


def show_sheets(trial: Trial, store: ImageStore, step: int) -> None:
    """Show the cells that have grown since the last checkpoint, of a large grid the first ones."""
    cells: dict[int, list[Record]] = {}
    for record in store.records:
        # Another attempt's may lie in a checkpoint only.
        if record["cell"] < MOST_CELLS and store.path(record).is_file():
            cells.setdefault(record["cell"], []).append(record)
    grown = {record["cell"]: record for record in store.unsaved}
    shown_cells = [record for cell, record in grown.items() if cell < MOST_CELLS]
    if left := len(grown) - len(shown_cells):
        log.info("TensorBoard shows the first %d cells; %d more are on the page", MOST_CELLS, left)
    for new in shown_cells:
        # An earlier grid in this folder may have had other cells.
        alike = [one for one in cells[new["cell"]] if _title(one) == _title(new)]
        shown = sorted(alike, key=lambda record: record["seed"])[:MOST]
        images = [Image.open(store.path(record)).convert("RGB") for record in shown]
        labels = [f"seed {record['seed']}" for record in shown]
        page = sheet(images, min(COLUMNS, len(images)), _title(shown[0]), labels)
        trial.show(_name(shown), page, step)


def _title(record: Record) -> str:
    learnt = "".join(f", {checkpoint}" for checkpoint in record["checkpoints"])
    if record.get("adapter"):
        learnt += f", {record['adapter']} at {record['adapter_scale']:g}"
    without = f", without {record['negative_prompt']}" if record["negative_prompt"] else ""
    return (
        f"{record['prompt']}{without}: scale {record['guidance_scale']:g}, "
        f"{record['steps']} steps, {record['scheduler']}{learnt}"
    )


def _name(records: Sequence[Record]) -> str:
    first = records[0]
    said = f"{first['prompt']} scale {first['guidance_scale']:g}".lower()
    slug = re.sub(r"[^a-z0-9.]+", "-", said).strip("-")
    return f"{first['cell']:04d}-{slug[:40]}{slug[40:][-12:]}"
