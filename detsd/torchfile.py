"""A file of torch.save's, of any age, read without running it: plain values and tensors."""

import functools
import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch

from detsd import pickles
from detsd.pickled import DamagedError, Module, PickleError, Storage, Stored

_OTHER_ORDER = "is of a machine with another byte order"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what files began with before they were archives

MOST_VIEWS = 4  # of each number of a file, on average
MOST_ENTRIES = 10_000  # of an archive that is read, not mapped
ENTRY = b"PK\x01\x02"  # what each begins with in the archive's list
LARGEST_OF_A_MODEL = 1 << 24  # bytes of instructions: a model and what it was trained with have 2e6

# A number of numpy's among the plain values: nothing is made of it.
INERT = frozenset(
    f"{module} {name}"
    for module, names in {
        "numpy": ("dtype", "ndarray"),
        "_codecs": ("encode",),
        "numpy.core.multiarray": ("scalar", "_reconstruct"),
        "numpy._core.multiarray": ("scalar", "_reconstruct"),
    }.items()
    for name in names
)

ReadStorage = Callable[[Storage], memoryview]


class _Reader(NamedTuple):
    """How a file is read: what of it is skipped, how long a pickle may be, whose memory it is."""

    inert: Collection[str]
    most: int
    take: Callable[[torch.Tensor], torch.Tensor]


def is_torch_file(start: bytes) -> bool:
    """Return whether a file with this start is a pickle, or the archive that torch puts one in."""
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5")


def read_torch_file(path: Path) -> Any:
    """Return the value in a file of megabytes, or raise a PickleError."""
    if path.read_bytes().count(ENTRY) > MOST_ENTRIES:
        raise PickleError("is an archive of too many entries")
    return _read(path, _Reader(INERT, pickles.LARGEST, torch.clone))


def map_torch_file(path: Path, inert: Collection[str]) -> Any:
    """Return the value in a file of gigabytes, its tensors views of it, or raise a PickleError.

    A name in `inert` may be in the file, and what it stands for is not read.
    """
    return _read(path, _Reader(inert, LARGEST_OF_A_MODEL, lambda tensor: tensor))


def _read(path: Path, reader: _Reader) -> Any:
    try:
        with path.open("rb") as file:
            # What is not read takes no memory, and what is changed is so for this process alone.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        if not zipfile.is_zipfile(path):
            return _read_legacy(data, reader)
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, data, reader)
    except PickleError:
        raise
    # A damaged archive or pickle fails in as many ways as it has bits.
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise DamagedError(f"is damaged, or no file of torch.save ({said[:100]})") from None


def _read_archive(archive: zipfile.ZipFile, data: memoryview, reader: _Reader) -> Any:
    names = archive.namelist()
    main = next((name for name in names if name.endswith("/data.pkl")), None)
    if main is None:
        raise PickleError("is an archive, but none of torch.save")
    root = main.removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in names and archive.read(_entry(archive, order, 16)) != b"little":
        raise PickleError(_OTHER_ORDER)
    instructions = io.BytesIO(archive.read(_entry(archive, main, reader.most)))

    def read(one: Storage) -> memoryview:
        return _content(data, _entry(archive, f"{root}data/{one.key}", one.size))

    return _filled(pickles.run(instructions, reader.inert).value, read, reader, len(data))


def _entry(archive: zipfile.ZipFile, name: str, most: int) -> zipfile.ZipInfo:
    info = archive.getinfo(name)
    # Torch compresses nothing: what is compressed may be gigabytes.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise PickleError(f"has {name} compressed, which torch does not do")
    if info.file_size > most:
        raise PickleError(f"has {info.file_size} bytes in {name}, where at most {most} are wanted")
    return info


def _content(data: memoryview, info: zipfile.ZipInfo) -> memoryview:
    """Return an entry's bytes where they lie: behind a header whose last two parts vary."""
    lengths = struct.unpack_from("<HH", data, info.header_offset + 26)
    start = info.header_offset + 30 + sum(lengths)
    content = data[start : start + info.file_size]
    if zlib.crc32(content) != info.CRC:
        raise PickleError(f"is damaged: {info.filename} is not as it was written")
    return content


def _read_legacy(data: memoryview, reader: _Reader) -> Any:
    """Read what came before archives: five pickles, and then each storage's count and numbers."""
    file = io.BytesIO(data[: reader.most])
    if pickles.run(file).value != LEGACY_MAGIC:
        raise PickleError("is a pickle, but not one of torch.save")
    _version, system = pickles.run(file).value, pickles.run(file).value
    if system["little_endian"] is not True:
        raise PickleError(_OTHER_ORDER)
    made, keys = pickles.run(file, reader.inert), pickles.run(file).value
    numbers, start = {}, file.tell()
    for key in keys:
        start, end = start + 8, start + 8 + made.storages[key].size
        numbers[key], start = data[start:end], end
    return _filled(made.value, lambda one: numbers[one.key], reader, len(data))


def _filled(value: Any, read: ReadStorage, reader: _Reader, size: int) -> Any:
    """Return the value with its tensors: those in mappings, at any depth, and in modules."""
    numbers = _once(read, size)
    seen: dict[int, Any] = {}  # what is referred to twice is one thing, however often that goes on

    room = MOST_VIEWS * size

    def take(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal room
        room -= tensor.nbytes
        if room < 0:  # as copies, thousands of views of the same numbers are gigabytes
            raise PickleError("has the same numbers in too many tensors")
        return reader.take(tensor)

    def fill(one: Any) -> Any:
        if id(one) not in seen:
            if isinstance(one, Stored):
                seen[id(one)] = take(_tensor(one, numbers(one.storage)))
            elif isinstance(one, Module):
                seen[id(one)] = fill(one.state.get("_parameters"))
            elif isinstance(one, dict):
                mapping: dict[Any, Any] = {}
                seen[id(one)] = mapping
                mapping.update((key, fill(inner)) for key, inner in one.items())
            else:
                return one
        return seen[id(one)]

    return fill(value)


def _once(read: ReadStorage, size: int) -> Callable[[Storage], torch.Tensor]:
    """Return what gives a storage's numbers, each read once for all of its views."""
    left = size

    @functools.cache
    def numbers(storage: Storage) -> torch.Tensor:
        nonlocal left
        left -= storage.size
        if left < 0:  # before it is read: the same bytes may be there under a thousand names
            raise PickleError("has more numbers than bytes")
        return _numbers(storage, read(storage))

    return numbers


def _numbers(storage: Storage, content: memoryview) -> torch.Tensor:
    if len(content) != storage.size:
        raise PickleError("is damaged: a tensor is not of the size that is said")
    if not storage.length:
        return torch.empty(0, dtype=storage.dtype)
    flat = torch.frombuffer(content, dtype=storage.dtype)
    if flat.data_ptr() % flat.itemsize:  # files from before there were archives pad nothing
        flat = torch.frombuffer(bytearray(content), dtype=storage.dtype)
    return flat


def _tensor(stored: Stored, numbers: torch.Tensor) -> torch.Tensor:
    shape, stride, count = stored.shape, stored.stride, prod(stored.shape)
    last = stored.offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    # One with more numbers than are there would be views of views, and gigabytes as a copy.
    if count > stored.storage.length or (count and last >= stored.storage.length):
        raise PickleError(f"has a tensor of {list(shape)} in {stored.storage.length} numbers")
    if not count:
        return torch.zeros(shape, dtype=stored.storage.dtype)
    return numbers.as_strided(shape, stride, stored.offset)
