"""A pickle, read as data: the few of its instructions that tensors need, and no code of others.

A pickle is a program for a small machine with a stack. Python's machine calls whatever the program
names; this one knows the names that `torch.save` uses, makes plain values of them, and refuses the
rest, but for those that a caller says stand for nothing that it needs. Tensors come out as
`Stored`: what they are to be, with nothing allocated yet.
"""

import io
import pickletools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch

LARGEST = 1 << 19  # bytes of instructions: a concept has a few hundred of them
MOST = 1 << 48  # of anything that is counted: more would only take time to multiply
MOST_DIMENSIONS = 8


class PickleError(ValueError):
    """A pickle that is damaged, or that wants more made than tensors and plain values."""


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
    """Stands for an object that is not read: nothing is kept of what it was to be made of."""

    def __init__(self, *_: Any) -> None:
        pass


class _Mark:
    """Where on the stack the parts of the next value begin."""


class Made(NamedTuple):
    """What a pickle makes, and the storages of its tensors by their key."""

    value: Any
    storages: Mapping[str, Storage]


def run(file: io.BytesIO, inert: Collection[str] = ()) -> Made:
    """Return what the next pickle of the file makes, or raise a PickleError.

    `inert` are names, "module name", of what may be in it and is nothing here.
    """
    machine = _Machine(inert)
    for instruction, argument, _ in pickletools.genops(file):
        step = _STEPS.get(instruction.name)
        if step is None:
            raise PickleError(f"has the instruction {instruction.name}, which no tensor needs")
        step(machine, argument)
    (value,) = machine.stack
    return Made(value, machine.storages)


class _Machine:
    """A stack, and the values that are referred to again."""

    def __init__(self, inert: Collection[str]) -> None:
        self.inert = inert
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while not isinstance(self.stack[place], _Mark):
            place -= 1
        parts = self.stack[place + 1 :]
        del self.stack[place:]
        return parts

    def last(self, count: int) -> tuple[Any, ...]:
        parts = tuple(self.stack[-count:])
        del self.stack[-count:]
        return parts

    def extend(self, parts: list[Any]) -> None:
        _of(list, self.stack[-1]).extend(parts)

    def set_items(self, parts: list[Any]) -> None:
        mapping = _of(dict, self.stack[-1])
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            # Other keys may be nested so that to hash one takes longer than anybody waits.
            mapping[_of((str, int, _Maker), key)] = value

    def keep(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def push_global(self, name: str) -> None:
        if name not in _MAKERS and name not in self.inert:
            raise PickleError(f"wants {name} to be run; only tensors and plain values are read")
        self.push(_Maker(name))

    def call(self) -> None:
        arguments, maker = _of(tuple, self.pop()), _of(_Maker, self.pop())
        self.push(_MAKERS.get(maker.name, Inert)(*arguments))

    def build(self) -> None:
        """Give an object its attributes: only a module's are of interest."""
        state, made = self.pop(), self.stack[-1]
        if not isinstance(made, Inert):
            _of(dict, state)
        if isinstance(made, Module):
            made.state = state

    def push_outside(self) -> None:
        kind, maker, *rest = _of(tuple, self.pop())
        if kind == "module":  # its class, with the source of that, which nobody reads
            self.push(_of(_Maker, maker))
            return
        key, _, count, *view = rest
        if kind != "storage" or any(one is not None for one in view):
            raise PickleError("has storages of a kind that torch no longer writes")
        storage = Storage(_of(str, key), _DTYPES[_of(_Maker, maker).name], _whole(count))
        if self.storages.setdefault(key, storage) != storage:
            raise PickleError(f"has the storage {key} in two sizes")
        self.push(storage)


class _Maker(NamedTuple):
    """What the pickle calls by this name, which is in the list."""

    name: str


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        wanted = "a text or a whole number" if isinstance(kind, tuple) else kind.__name__.strip("_")
        raise PickleError(f"has {type(value).__name__} where {wanted} is wanted")
    return value


def _whole(count: Any) -> int:
    if not isinstance(count, int) or not 0 <= count < MOST:
        raise PickleError("has a size that is none")
    return count


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Stored:
    if len(_of(tuple, shape)) > MOST_DIMENSIONS or len(_of(tuple, stride)) != len(shape):
        raise PickleError("has a shape that is none")
    shape, stride = (tuple(map(_whole, one)) for one in (shape, stride))
    return Stored(_of(Storage, storage), _whole(offset), shape, stride)


def _no_call(*_: Any) -> Any:
    raise PickleError("calls a kind of storage")


_DTYPES = {
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
    "torch._utils _rebuild_parameter": lambda tensor, *_: _of(Stored, tensor),
    "torch.nn.modules.container ParameterDict": Module,
    **dict.fromkeys(_DTYPES, _no_call),
}

_Step = Callable[[_Machine, Any], None]
_CONSTANTS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
_STEPS: Mapping[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, argument: None),
    **dict.fromkeys(_CONSTANTS, _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),  # which hashes nothing
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": lambda machine, _: machine.push(_Mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.last(3)),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([*machine.last(2)]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "BINPUT": _Machine.keep,
    "LONG_BINPUT": _Machine.keep,
    "MEMOIZE": _Machine.keep,
    "BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": lambda machine, _: machine.push_global(" ".join(machine.last(2))),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.push_outside(),
}
