"""What a run folder holds besides the checkpoints, and which trial it is the folder of."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detsd.storage import Storage, open_storage, write_whole

IDENTITY = "run.json"
METRICS = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, but for one that a crash has cut."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def identify(folder: Path) -> str:
    """Return the id of the trial in this folder, made when it is first asked for."""
    path = folder / IDENTITY
    if not path.is_file():
        write_whole(path, json.dumps({"trial_id": uuid.uuid4().hex}))
    return json.loads(path.read_text())["trial_id"]


def open_checkpoints(place: Mapping[str, Any], folder: Path) -> Storage:
    """Return the storage of the trial in this folder."""
    return open_storage(place, folder, identify(folder), _build_manager)


def _build_manager(config: Mapping[str, Any]) -> Any:
    # Determined takes a quarter of a second to import, and most run folders keep it all themselves.
    from determined.common import storage

    return storage.build(config, None)
