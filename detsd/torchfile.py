"""A file of torch.save's, of any age, read without running it: plain values and tensors."""

import io
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch

from detsd import pickles
from detsd.pickles import Module, PickleError, Storage, Stored

_OTHER_ORDER = "is of a machine with another byte order"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what files began with before they were archives

ReadStorage = Callable[[Storage], bytes]


def is_torch_file(start: bytes) -> bool:
    """Return whether a file with this start is a pickle, or the archive that torch puts one in."""
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5")


def read_torch_file(path: Path) -> Any:
    """Return the value in the file, or raise a PickleError."""
    try:
        if not zipfile.is_zipfile(path):
            return _read_legacy(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive)
    except PickleError:
        raise
    # A damaged archive or pickle fails in as many ways as it has bits.
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise PickleError(f"is damaged, or no file of torch.save ({said[:100]})") from None


def _read_archive(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    main = next((name for name in names if name.endswith("/data.pkl")), None)
    if main is None:
        raise PickleError("is an archive, but none of torch.save")
    root = main.removesuffix("data.pkl")
    if f"{root}byteorder" in names and _entry(archive, f"{root}byteorder", 16) != b"little":
        raise PickleError(_OTHER_ORDER)
    made = pickles.run(io.BytesIO(_entry(archive, main, pickles.LARGEST)))
    return _filled(made.value, lambda one: _entry(archive, f"{root}data/{one.key}", one.size))


def _entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    info = archive.getinfo(name)
    # Torch compresses nothing: what is compressed may be gigabytes.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise PickleError(f"has {name} compressed, which torch does not do")
    if info.file_size > most:
        raise PickleError(f"has {info.file_size} bytes in {name}, where at most {most} are wanted")
    return archive.read(info)


def _read_legacy(data: bytes) -> Any:
    """Read what came before archives: five pickles, and then each storage's count and numbers."""
    file = io.BytesIO(data[: pickles.LARGEST])
    if pickles.run(file).value != LEGACY_MAGIC:
        raise PickleError("is a pickle, but not one of torch.save")
    _version, system = pickles.run(file).value, pickles.run(file).value
    if system["little_endian"] is not True:
        raise PickleError(_OTHER_ORDER)
    made, keys = pickles.run(file), pickles.run(file).value
    numbers, start = {}, file.tell()
    for key in keys:
        start, end = start + 8, start + 8 + made.storages[key].size
        numbers[key], start = data[start:end], end
    return _filled(made.value, lambda one: numbers[one.key])


def _filled(value: Any, read: ReadStorage) -> Any:
    """Return the value with its tensors: those in mappings, at any depth, and in modules."""
    seen: dict[int, Any] = {}  # what is referred to twice is one thing, however often that goes on

    def fill(one: Any) -> Any:
        if id(one) not in seen:
            if isinstance(one, Stored):
                seen[id(one)] = _tensor(one, read(one.storage))
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


def _tensor(stored: Stored, numbers: bytes) -> torch.Tensor:
    shape, stride, count = stored.shape, stored.stride, prod(stored.shape)
    if len(shape) != len(stride) or len(numbers) != stored.storage.size:
        raise PickleError("is damaged: a tensor is not of the size that is said")
    last = stored.offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    # One with more numbers than are there would be views of views, and gigabytes as a copy.
    if count > stored.storage.length or (count and last >= stored.storage.length):
        raise PickleError(f"has a tensor of {list(shape)} in {stored.storage.length} numbers")
    if not count:
        return torch.zeros(shape, dtype=stored.storage.dtype)
    flat = torch.frombuffer(bytearray(numbers), dtype=stored.storage.dtype)
    return flat.as_strided(shape, stride, stored.offset).clone()
