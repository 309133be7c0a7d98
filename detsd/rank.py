"""One process of a run without a cluster: it does what its launcher says, and dies with it."""

import json
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from detsd import console
from detsd.hiding import UNNEEDED, hidden


def main() -> None:
    """Read the task from the launcher's pipe, and work on it for as long as the pipe is open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the launcher's to act on
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_launcher, daemon=True).start()
    rank = int(os.environ["RANK"])
    console.speak(rank)
    said = Path(task["rendezvous"].removeprefix("file://")).with_name("said")
    with console.errors_in_a_line(said):
        work(**task)


def work(*, entry: list[str], folder: str, **rest: Any) -> None:
    """Hand the trial in the folder to the entry point: a module of detsd and a function in it."""
    from detsd.foldertrial import open_folder_trial

    console.hush_loading()
    module, function = entry
    with hidden(*UNNEEDED):
        run = getattr(import_module(module), function)
    with open_folder_trial(Path(folder), **rest) as trial:
        run(trial)


def _die_with_launcher() -> None:
    # The other end closes with the launcher, however that ends; on any system.
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
