"""How many processors there are for this process."""

import os


def cores() -> int:
    """Return how many it may run on, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
