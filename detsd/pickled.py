"""What a pickle may name, and the plain data that stands for it here.

These are the names that `torch.save` uses. Tensors are `Stored`: what they are to be, with nothing
allocated yet.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch

MOST = 1 << 48  # of anything that is counted: more would only take time to multiply
MOST_DIMENSIONS = 8
MOST_ARGUMENTS = 8  # torch passes seven


class PickleError(ValueError):
    """A pickle that is damaged, or that wants more made than tensors and plain values."""


class DamagedError(PickleError):
    """A file that ends early, or makes no sense."""


class Storage(NamedTuple):
    """The numbers that tensors are views of, under the name that the file has for them."""

    key: str
    dtype: torch.dtype
    length: int

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return self.length * self.dtype.itemsize


class Stored(NamedTuple):
    """A tensor that is not there yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Module:
    """Stands for a module of torch: what it was made of, by name."""

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}


class Inert:
    """Stands for an object that is not read: nothing is kept of what it is made of or holds."""


class Maker(NamedTuple):
    """What the pickle calls by this name, which is in the list."""

    name: str


def of_kind(kind: Any, value: Any) -> Any:
    """Return the value, if it is of that kind."""
    if not isinstance(value, kind):
        raise PickleError(f"has {type(value).__name__} where {kind.__name__} is wanted")
    return value


def a_key(key: Any) -> Any:
    """Return the key of a mapping, if it is of a kind that takes no time to hash."""
    if isinstance(key, (str, Maker)) or (isinstance(key, int) and abs(key) < MOST):
        return key
    # Others may be nested, or all alike, so that it takes longer than anybody waits.
    raise PickleError(f"has {type(key).__name__} where a text or a small number is wanted as a key")


def whole(count: Any) -> int:
    """Return the count, if it is one."""
    if not isinstance(count, int) or not 0 <= count < MOST:
        raise PickleError("has a size that is none")
    return count


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Stored:
    if len(of_kind(tuple, shape)) > MOST_DIMENSIONS or len(of_kind(tuple, stride)) != len(shape):
        raise PickleError("has a shape that is none")
    shape, stride = (tuple(map(whole, one)) for one in (shape, stride))
    return Stored(of_kind(Storage, storage), whole(offset), shape, stride)


def _no_call(*_: Any) -> Any:
    raise PickleError("calls a kind of storage")


DTYPES = {
    f"torch {name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Double": torch.float64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
# All that a pickle may name, and what is made of it here.
_MAKERS: Mapping[str, Callable[..., Any]] = {
    # Nothing is copied here: of something large, a short pickle asks for copies by the thousand.
    "collections OrderedDict": lambda: {},
    **dict.fromkeys(("builtins set", "__builtin__ set"), lambda items=None: items),
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: of_kind(Stored, tensor),
    "torch.nn.modules.container ParameterDict": Module,
    **dict.fromkeys(DTYPES, _no_call),
}


def named(name: str, inert: Collection[str]) -> Maker:
    """Return what is called by that name, if it may be."""
    if name not in _MAKERS and name not in inert:
        raise PickleError(f"wants {name} to be run; only tensors and plain values are read")
    return Maker(name)


def make(maker: Any, arguments: Any) -> Any:
    """Return what stands for the object that would be made so."""
    known = _MAKERS.get(of_kind(Maker, maker).name)
    if known is None:
        return Inert()
    if len(of_kind(tuple, arguments)) > MOST_ARGUMENTS:
        raise PickleError(f"calls {maker.name} with {len(arguments)} arguments")
    return known(*arguments)
