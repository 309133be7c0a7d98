"""A pickle, read as data: the few of its instructions that tensors need, and no code of others.

A pickle is a program for a small machine with a stack. Python's machine calls whatever the program
names; this one knows the names that `torch.save` uses, makes plain values of them, and refuses the
rest, but for those that a caller says stand for nothing that it needs.
"""

import io
import pickletools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from detsd.pickled import (
    DTYPES,
    Inert,
    Maker,
    Module,
    PickleError,
    Storage,
    a_key,
    make,
    named,
    of_kind,
    whole,
)

LARGEST = 1 << 19  # bytes of instructions: a concept has a few hundred of them
MOST_STEPS = 1_000_000  # of the machine: a model with its mean and optimizer takes a third of them


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
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if count > MOST_STEPS:
            raise PickleError(f"has more than {MOST_STEPS} instructions")
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
        if not isinstance(self.stack[-1], Inert):
            of_kind(list, self.stack[-1]).extend(parts)

    def set_items(self, parts: list[Any]) -> None:
        if isinstance(self.stack[-1], Inert):
            return
        mapping = of_kind(dict, self.stack[-1])
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            mapping[a_key(key)] = value

    def keep(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def push_global(self, name: str) -> None:
        self.push(named(name, self.inert))

    def call(self) -> None:
        arguments, maker = self.pop(), self.pop()
        self.push(make(maker, arguments))

    def build(self) -> None:
        """Give an object its attributes: only a module's are of interest."""
        state, made = self.pop(), self.stack[-1]
        if not isinstance(made, Inert):
            of_kind(dict, state)
        if isinstance(made, Module):
            made.state = state

    def push_outside(self) -> None:
        kind, maker, *rest = of_kind(tuple, self.pop())
        if kind == "module":  # its class, with the source of that, which nobody reads
            self.push(of_kind(Maker, maker))
            return
        key, _, count, *view = rest
        if kind != "storage" or any(one is not None for one in view):
            raise PickleError("has storages of a kind that torch no longer writes")
        storage = Storage(of_kind(str, key), DTYPES[of_kind(Maker, maker).name], whole(count))
        if self.storages.setdefault(key, storage) != storage:
            raise PickleError(f"has the storage {key} in two sizes")
        self.push(storage)


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
