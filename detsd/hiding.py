"""What imports cost a process that has no use for it: libraries, and a search for garbage."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

# Diffusers and accelerate look for them, for what is not done here, and take a second and 70 MB for
# it. What does need one (8-bit optimizers, storage) imports it itself, later; those two go on
# without it for as long as the process lasts.
UNNEEDED = ("bitsandbytes", "boto3")
# For a few schedulers of diffusers, all of which it imports at once: half a second, and 56 MB.
LATER = ("scipy.integrate", "scipy.stats")


@contextmanager
def lean_imports() -> Iterator[None]:
    """Let transformers and diffusers be imported, but not what they can do without."""
    # Transformers looks once for what is installed, and remembers it.
    is_first = "transformers" not in sys.modules
    with hidden(*UNNEEDED), put_off(*LATER), garbage_left():
        if is_first:
            with hidden("scipy"):  # wanted for losses that nothing here asks for
                import_module("transformers.modeling_utils")
        yield
    if is_first:  # later there is more than modules, which has to be found when it is garbage
        gc.freeze()


@contextmanager
def garbage_left() -> Iterator[None]:
    """Look for no garbage as long as the context lasts.

    Of four seconds of imports, one goes into looking again and again through what stays for good.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def put_off(*names: str) -> Iterator[None]:
    """Let who imports these modules as long as the context lasts get them when they use them."""
    taken = [name for name in names if name not in sys.modules]
    sys.modules.update({name: _Later(name) for name in taken})
    try:
        yield
    finally:
        _let_go()


class _Later(ModuleType):
    """Stands in for a module until somebody asks it for something."""

    def __getattr__(self, name: str) -> Any:
        # Many ask every module there is for such names; for the path, who wants a part of it.
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        _let_go()
        return getattr(import_module(self.__name__), name)


def _let_go() -> None:
    """Take all stand-ins away: the real modules import one another."""
    for name in [name for name, module in sys.modules.items() if isinstance(module, _Later)]:
        del sys.modules[name]


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
