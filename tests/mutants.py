"""Damaged and hostile concept files: python -m tests.mutants FOLDER COUNT reads so many of them.

It ends with 0 where each was read or refused in a line, by a process that ran nothing, wrote
nothing and took no more memory than a concept needs.
"""

import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from detsd.concepts import ConceptError, read_concepts
from tests.test_embeddings import FILES

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


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(flip, flip_at_start, cut, leave_out, insert, claim, retype, run_something),
)


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
        name, write, _ = FILES[chance.choice(sorted(FILES))]
        home = folder / str(number)
        home.mkdir(parents=True)
        write(home / name)
        data = bytearray((home / name).read_bytes())
        for _ in range(chance.randint(1, 2)):
            chance.choice(MUTATIONS)(data, chance)
            data = data or bytearray(b"\0")
        (home / name).write_bytes(data)
        paths.append(home / name)
    for kind in FILES:  # what reading needs is imported once all kinds have been read
        name, write, _ = FILES[kind]
        write(folder / name)
        read_concepts(folder / name)
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
    """Read the file as a stranger's."""
    try:
        read_concepts(path)
    except ConceptError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
        return True
    return False


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
