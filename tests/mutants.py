"""Damaged and hostile files of words and adapters: python -m tests.mutants FOLDER COUNT reads some.

It ends with 0 where each was read or refused in a line, by a process that ran nothing, wrote
nothing and took no more memory than a concept needs.
"""

import encodings.cp437  # noqa: F401, of names in archives that are in no UTF-8
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from detsd.adapters import Adapter, AdapterError, write_adapter
from detsd.checkpoints import CheckpointError
from detsd.concepts import ConceptError, read_concepts
from detsd.layers import Layer
from detsd.learnt import read_learnt
from tests import test_embeddings

MOST_KILOBYTES = 1 << 20  # more than before
STUCK = 60  # seconds
FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "import", "exec", "compile", "ctypes.")
ALLOWED = ("os.listdir", "os.scandir")


def flip(data: bytearray, chance: random.Random) -> None:
    """Change a few bits."""
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_at_start(data: bytearray, chance: random.Random) -> None:
    """Change bytes where the headers and the instructions are."""
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(min(400, len(data)))] = chance.randrange(256)


def cut(data: bytearray, chance: random.Random) -> None:
    """Leave out the end."""
    del data[chance.randrange(len(data)) :]


def leave_out(data: bytearray, chance: random.Random) -> None:
    """Leave out a piece."""
    start = chance.randrange(len(data))
    del data[start : start + chance.randint(1, 64)]


def insert(data: bytearray, chance: random.Random) -> None:
    """Put noise somewhere."""
    start = chance.randrange(min(2000, len(data)))
    data[start:start] = chance.randbytes(chance.randint(1, 64))


def claim(data: bytearray, chance: random.Random) -> None:
    """Make a number in text a large one, as a shape or an offset has it."""
    places = [place for place in range(len(data)) if data[place : place + 1].isdigit()][:200]
    if places:
        place = chance.choice(places)
        data[place : place + 1] = str(10 ** chance.randint(3, 20)).encode()


def retype(data: bytearray, chance: random.Random) -> None:
    """Say that the numbers are of another type."""
    kinds = (b"F32", b"F16", b"F64", b"I64", b"BOOL", b"F8_E4M3"), (b"Float", b"Half", b"Long")
    for group in kinds:
        other = chance.choice(group)
        for kind in group:
            data[:] = data.replace(kind, other, 1)


def run_something(data: bytearray, chance: random.Random) -> None:
    """Put a call among a pickle's instructions."""
    start = data.find(b"\x80\x02")
    call = chance.choice([b"cos\nsystem\nX\x04\x00\x00\x00true\x85R0", b"(S'x'\nios\nmkdir\n0"])
    if start >= 0:
        data[start + 2 : start + 2] = call


def reword(data: bytearray, chance: random.Random) -> None:
    """Change what a safetensors file says of a tensor or of itself, and leave it in one piece."""
    end = 8 + int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or end > len(data):
        return
    try:
        header = json.loads(data[8:end])
        entry = header[chance.choice(sorted(header))]
        name = chance.choice(sorted(entry))
    except (ValueError, LookupError, TypeError):  # it was damaged before
        return
    entry[name] = chance.choice(ODD)
    if chance.randrange(2):  # as a note that is read
        notes = header.setdefault("__metadata__", {})
        notes[chance.choice(["detsd", "lora_adapter_metadata"])] = json.dumps(odd_notes(chance))
    written = json.dumps(header).encode()
    data[:end] = len(written).to_bytes(8, "little") + written


ODD: tuple[object, ...] = (
    *("", "\x1b[31m\n", "F64", "I8", "[" * 2000, "9" * 5000, "{}", "null", '{"name": "a/b"}'),
    *([], [0], [0, 2**62, 2**62], [1] * 100, [2, 6, 1, 1], [6, 2], [0, 0], None, -1, 2**70),
)


def odd_notes(chance: random.Random) -> object:
    """Return notes as they could be, but for a value."""
    odd = (None, True, 0, -1, 10**400, 1e308, 1e-320, "a", "\ud800", [], {}, [[]], {"(": {}})
    value = chance.choice(odd)
    notes: tuple[object, ...] = (
        {"folded_alpha": value},
        {"folded_alpha": {"unet.conv_in": value}},
        {"unet.lora_alpha": value},
        {"lora_alpha": 2, "alpha_pattern": value},
        {"lora_alpha": 2, "alpha_pattern": {"conv_in": value}},
        {"lora_alpha": 2, "use_rslora": value, "family": value, "steps": value},
        {"name": value, "initializer": value, "steps": value, "base_model": value},
        value,
    )
    return chance.choice(notes)


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(flip, flip_at_start, cut, leave_out, insert, claim, retype, run_something),
    *(reword, reword),
)


def small(magnitude: torch.Tensor | None = None) -> Adapter:
    """Return an adapter with a convolution, which may be DoRA's, and a linear layer."""
    down, up = torch.rand(2, 4, 3, 3), torch.rand(8, 2, 1, 1)
    fc1 = Layer(torch.rand(2, 6), torch.rand(12, 2), 1.0)
    layers = {"unet.conv_in": Layer(down, up, 1.0, magnitude)}
    return Adapter(layers | {"text_encoder.text_model.encoder.layers.0.mlp.fc1": fc1})


def of_peft(path: Path) -> None:
    """Write an adapter with peft's config, as diffusers' scripts do."""
    config = {
        "unet.lora_alpha": 2,
        "unet.alpha_pattern": {"^conv_in$": 4},
        "unet.use_rslora": True,
        "unet.target_modules": ["conv_in", "to_q"],
    }
    tensors = {"unet.conv_in.lora_A.weight": torch.rand(2, 4, 3, 3)}
    tensors["unet.conv_in.lora_B.weight"] = torch.rand(8, 2, 1, 1)
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(config)})


Write = Callable[[Path], object]
WORDS: dict[str, tuple[str, Write]] = {
    kind: (name, write) for kind, (name, write, _) in test_embeddings.FILES.items()
}
ADAPTERS: dict[str, tuple[str, Write]] = {
    "diffusers' LoRA": ("style.safetensors", lambda path: write_adapter(path, small())),
    "kohya's LoRA": ("style.safetensors", lambda path: write_adapter(path, small(), "kohya")),
    "peft's LoRA": ("style.safetensors", of_peft),
    "DoRA": ("style.safetensors", lambda path: write_adapter(path, small(torch.rand(8)))),
    "kohya's DoRA": (
        "style.safetensors",
        lambda path: write_adapter(path, small(torch.rand(8)), "kohya"),
    ),
}


done: list[bool] = []


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """End the process where a file is written, or anything is run."""
    writes = event == "open" and str(arguments[1] or "r")[0] in "wax+"
    if not done and (writes or (event.startswith(FORBIDDEN) and event not in ALLOWED)):
        print(f"while reading: {event} {arguments}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)


def main(folder: Path, count: int) -> None:
    """Write and read the files."""
    paths = []
    for number in range(count):
        chance = random.Random(number)
        kinds = ADAPTERS if number % 2 else WORDS
        name, write = kinds[chance.choice(sorted(kinds))]
        home = folder / str(number)
        home.mkdir(parents=True)
        write(home / name)
        data = bytearray((home / name).read_bytes())
        for _ in range(chance.randint(1, 2)):
            chance.choice(MUTATIONS)(data, chance)
            data = data or bytearray(b"\0")
        (home / name).write_bytes(data)
        paths.append(home / name)
    # What reading needs is imported once all kinds have been read.
    for name, write in (*WORDS.values(), *ADAPTERS.values()):
        write(folder / name)
        assert read_learnt(str(folder / name))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(watch)
    signal.alarm(STUCK)
    refused = sum(is_refused(path) for path in paths)
    done.append(True)
    signal.alarm(0)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert more < MOST_KILOBYTES, f"{more} kilobytes more"
    assert count // 2 < refused < count, f"{refused} of {count} refused"
    print(f"{refused} of {count} refused, {more} kilobytes more")


def is_refused(path: Path) -> bool:
    """Read the file as a stranger's, for its words and for all that it has."""
    refused = []
    for read in (lambda: read_concepts(path), lambda: read_learnt(str(path))):
        try:
            read()
        except (ConceptError, AdapterError, CheckpointError) as error:
            assert str(error).isprintable() and len(str(error)) < 1000, str(error)
            refused.append(error)
    return len(refused) == 2


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
