"""One process of a run without a cluster: it does what its launcher says, and dies with it."""

import gc
import json
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from detsd import console
from detsd.hiding import lean_imports


def main() -> None:
    """Do one task of the launcher's after another until the last; one that fails is the last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the launcher's to act on
    tasks: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=[tasks], daemon=True).start()
    rank = int(os.environ["RANK"])
    console.speak(rank)
    while True:
        task = tasks.get()
        place = Path(task["rendezvous"].removeprefix("file://"))
        with console.errors_in_a_line(place.with_name("said")):
            work(**task)
        if task["is_last"]:
            return
        gc.collect()  # before the next one's model is there: two may be more than fits
        place.with_name(f"done-{rank}").touch()


def work(*, entry: list[str], folder: str, **rest: Any) -> None:
    """Hand the trial in the folder to the entry point: a module of detsd and a function in it."""
    from detsd.foldertrial import open_folder_trial

    module, function = entry
    with lean_imports():
        console.hush_loading()
        run = getattr(import_module(module), function)
    with open_folder_trial(Path(folder), **rest) as trial:
        run(trial)


def _listen(tasks: SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    # The other end closes with the launcher, however that ends; on any system.
    os._exit(1)


if __name__ == "__main__":
    main()
