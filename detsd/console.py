"""What a run says on the terminal: its own lines, errors in a line, no noise of other libraries."""

import errno
import json
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Gloo's and NCCL's words for it.
PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
PATIENCE = 10.0  # seconds
TIME_TO_CLOSE = 20.0
FILE_FOR_TORCHRUN = "TORCHELASTIC_ERROR_FILE"


def speak(rank: int = 0) -> None:
    """Let the chief speak, and the others only of errors."""
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.ERROR,
        format="%(message)s",
        stream=sys.stderr,
        force=True,
    )
    for name in ("determined", "httpx", "urllib3", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("transformers", "diffusers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def hush_loading() -> None:
    """Switch off the progress bars of loading, which a tiny model and a log both do without."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def is_watched() -> bool:
    """Return whether a person sees what is printed now: on a terminal, or in a notebook."""
    ipython = sys.modules.get("IPython")
    return sys.stderr.isatty() or (ipython is not None and ipython.get_ipython() is not None)


@contextmanager
def errors_in_a_line(said: Path | None = None) -> Iterator[None]:
    """End the process with one readable message for what a user can mend.

    Several processes may fail alike: the first that makes the file `said` speaks for all.
    """
    try:
        yield
    except Exception as error:
        if _is_a_peers(error):
            if FILE_FOR_TORCHRUN in os.environ:
                time.sleep(PATIENCE)  # for as long as torchrun has not seen which one failed
        elif not is_for_users(error) or _is_first(said):
            _say(error)
        sys.exit(1)


@contextmanager
def errors_at_once(time_to_close: float | None = None) -> Iterator[None]:
    """As above, but before what is open around it is closed: that takes time, and may be cut.

    A storage that does not answer could else hold this process, and so the others, for minutes.
    """
    try:
        yield
    except Exception as error:
        if _is_a_peers(error):
            raise
        _say(error)
        if time_to_close is not None:
            last = threading.Timer(time_to_close, os._exit, [1])
            last.daemon = True
            last.start()
        sys.exit(1)


def _is_a_peers(error: Exception) -> bool:
    """Return whether it only says that another process is gone: that one says why."""
    of_torch = type(error) is RuntimeError or type(error).__module__.startswith("torch.")
    return of_torch and any(words in str(error) for words in PEER_IS_GONE)


def _say(error: Exception) -> None:
    text = _marked(error) if is_for_users(error) else "".join(traceback.format_exception(error))
    print(text.rstrip(), file=sys.stderr, flush=True)
    # Torchrun's report ends a cluster's log, and has this in it.
    path = os.environ.get(FILE_FOR_TORCHRUN)
    if path and not Path(path).exists():  # what comes later, comes of it
        more = {"py_callstack": text, "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": text, "extraInfo": more}}))


def _is_first(said: Path | None) -> bool:
    try:
        if said is not None:
            said.touch(exist_ok=False)
    except OSError:
        return False
    return True


def duration(seconds: float) -> str:
    """Return how long that is, as precisely as an estimate can say."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{max(seconds, 1):.0f} seconds"


def print_error(error: Exception) -> None:
    """Print the message, each of its lines marked."""
    print(_marked(error), file=sys.stderr)


def _marked(error: Exception) -> str:
    return f"error: {error}".replace("\n", "\nerror: ")


def is_for_users(error: Exception) -> bool:
    """Return whether the message says it all: our own errors, and a disk that refuses."""
    disk = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES)
    return disk or type(error).__module__.startswith("detsd.")
