"""Libraries that others import only because they are installed, kept from them for a while."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Diffusers and accelerate look for them, for what is not done here, and take a second and 70 MB for
# it. What does need one (8-bit optimizers, storage) imports it itself, later; those two go on
# without it for as long as the process lasts.
UNNEEDED = ("bitsandbytes", "boto3")


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Let nobody find these libraries, for as long as the context lasts; those in use stay."""
    taken = [name for name in names if name not in sys.modules]
    for name in taken:
        sys.modules[name] = None  # type: ignore[assignment]  # by which Python means: not there
    try:
        yield
    finally:
        for name in taken:
            del sys.modules[name]
