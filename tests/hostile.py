"""Files that were made to take long, or much memory: python -m tests.hostile FOLDER reads them."""

import io
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from detsd.adapters import AdapterError
from detsd.checkpoints import CheckpointError
from detsd.concepts import ConceptError, read_concepts
from detsd.learnt import read_learnt
from tests import carried, hostile_adapters

STUCK = 30  # seconds
LONG = 4  # seconds of a processor: what is promised, twice
GIGABYTE = 1 << 20  # kilobytes
ENDS = {
    256: "no one line",
    512: "too much memory",
    768: "taken for what can be used",
    1024: "too long",
    14: "no end",
}
LARGE = b"\x8a\xff" + b"\xff" * 254 + b"\x7fq\x01"  # a number of 2,000 bits, kept as 1
OPEN = b"\x80\x02}"


def archive(path: Path, main: bytes) -> None:
    """Write torch's archive around instructions, with four numbers for tensors."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", main)
        file.writestr("a/data/0", bytes(16))


def text(value: str) -> bytes:
    """Return the instruction that makes a text."""
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def tensor(shape: bytes) -> bytes:
    """Return the instructions for a tensor of the shape that others make."""
    parts = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + parts + b"K\0" + shape + shape + b"tR"


def long_shape(path: Path) -> None:
    """A shape of many enormous numbers, which take long to multiply."""
    shape = b"(" + LARGE + b"h\x01" * 20_000 + b"t"
    archive(path, OPEN + text("a") + tensor(shape) + b"s.")


def deep_phrase(path: Path) -> None:
    """An initializer that is a tuple of itself twice, sixty times: it has no end in letters."""
    phrase: Any = ()
    for _ in range(60):
        phrase = (phrase, phrase)
    torch.save({"a": {"learned_embeddings": torch.rand(2, 8), "initializer_strs": phrase}}, path)


def copied(name: str) -> Callable[[Path], None]:
    """Return what writes a value that is copied three thousand times by calls."""

    def write(path: Path) -> None:
        items = b"((](" + b"N" * 60_000 + b"eq\x01\x85q\x02c" + name.encode() + b"\nq\x03"
        archive(path, b"\x80\x02" + items + b"h\x03h\x02R" * 3000 + b"tt.")

    return write


def many_entries(path: Path) -> None:
    """An archive with a list that takes long to read."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", OPEN + b".")
        for number in range(60_000):
            file.writestr(zipfile.ZipInfo(str(number)), b"")


def rows_of_cog(path: Path) -> None:
    """A word that takes the same row a million times."""
    save_file({"text_encoders_0": torch.rand(2, 768)}, path)
    path.with_name("special_params.json").write_text(json.dumps({"a": "<s0>" * 200_000}))


def many_tensors(path: Path) -> None:
    """A word in each of very many names."""
    header = {
        str(place): {"dtype": "U8", "shape": [1], "data_offsets": [place, place + 1]}
        for place in range(200_000)
    }
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + bytes(200_000))


def bytes_as_numbers(path: Path) -> None:
    """Bytes, which take four times as much as numbers."""
    save_file({"a": torch.zeros(100, 1_000_000, dtype=torch.uint8)}, path)


def large_bundle(path: Path) -> None:
    """A word beside a layer, of gigabytes that are not on the disk."""
    size = 3 << 30
    header = {
        "bundle_emb.a.clip_l": {"dtype": "U8", "shape": [4, size // 4], "data_offsets": [0, size]}
    }
    written = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + size)


def long_notes(path: Path) -> None:
    """Notes of many empty lists."""
    notes = '{"a": [' + "[]," * 4_000_000 + "[]]}"
    save_file({"a": torch.rand(1, 8)}, path, {"detsd": notes})


def hidden_lists(path: Path) -> None:
    """Very many lists in the pixels of a small picture."""
    packed = zlib.compress(b'{"string_to_param": {"*": [' + b"[]," * 8_000_000 + b"[]]}}", 9)
    carried.hide_bytes(packed, path)


def animated(path: Path) -> None:
    """A picture that has to be played to its end for its texts."""
    pages = [Image.fromarray(np.full((512, 512, 3), 20 + n, np.uint8)) for n in range(60)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def plain_pickle(path: Path) -> None:
    """No file of torch's, and a text of megabytes."""
    path.write_bytes(pickle.dumps({"a" * 5_000_000: 1}, protocol=2))


def two_lines(path: Path) -> None:
    """A name that would write what it likes on the terminal."""
    save_file({"a\nb\x1b[31m" + "c" * 100_000: torch.rand(1, 1, 2)}, path)


def other_lines(path: Path) -> None:
    """A call that would."""
    buffer = io.BytesIO()
    buffer.write(b"\x80\x04" + text("os\n\x1b[31mall is well") + text("x") + b"\x93.")
    archive(path, buffer.getvalue())


FILES: dict[str, Callable[[Path], None]] = {
    "long shape.pt": long_shape,
    "copied set.pt": copied("__builtin__\nset"),
    "copied mapping.pt": copied("collections\nOrderedDict"),
    "entries.pt": many_entries,
    "embeddings.pti": rows_of_cog,
    "tensors.safetensors": many_tensors,
    "bytes.safetensors": bytes_as_numbers,
    "bundle.safetensors": large_bundle,
    "notes.safetensors": long_notes,
    "lists.png": hidden_lists,
    "animated.png": animated,
    "plain.pt": plain_pickle,
    "lines.safetensors": two_lines,
    "lines.pt": other_lines,
    **hostile_adapters.FILES,
}


def main(folder: Path) -> None:
    """Write the files, and read each in a child, which is killed where it takes too long."""
    folder.mkdir(parents=True, exist_ok=True)
    deep_phrase(folder / "deep phrase.pt")
    assert read_concepts(folder / "deep phrase.pt")[0].initializer == ""
    for name, write in FILES.items():
        home = folder / name.replace(".", " ")
        home.mkdir()
        writer = os.fork()  # what writing takes is not counted
        if not writer:
            write(home / name)
            os._exit(0)
        assert os.waitpid(writer, 0)[1] == 0, name
        for read in READERS:
            reader = os.fork()
            if not reader:
                os._exit(ended(read, home / name))
            status = os.waitpid(reader, 0)[1]
            assert status == 0, f"{name}, by {read.__name__}: {ENDS.get(status, status)}"
        shutil.rmtree(home)
    print(f"{len(FILES)} refused")


def learnt(path: Path) -> None:
    """Read it as the convert command does."""
    read_learnt(str(path))


READERS = (read_concepts, learnt)
OURS = (ConceptError, AdapterError, CheckpointError)


def ended(read: Callable[[Path], object], path: Path) -> int:
    """Return 0 where the file is refused in a line, and takes neither much memory nor long."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    signal.alarm(STUCK)
    try:
        read(path)
    except OURS as error:
        after = resource.getrusage(resource.RUSAGE_SELF)
        if not str(error).isprintable() or len(str(error)) > 1000:
            return 1
        if after.ru_maxrss - before.ru_maxrss > GIGABYTE:
            return 2
        return 4 if after.ru_utime - before.ru_utime > LONG else 0
    return 3


if __name__ == "__main__":
    main(Path(sys.argv[1]))
