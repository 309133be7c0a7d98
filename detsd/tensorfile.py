"""A safetensors file: written whole, with the same bytes in every process, and read with care."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detsd.torchfile import is_torch_file

Tensors = dict[str, torch.Tensor]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# Kohya's tools note the tags of all pictures in the header, in a few megabytes of few texts. A
# whole SDXL has 2,500 tensors, and its header 25,000 texts and 150 kB of other letters.
MOST_HEADER = 1 << 24  # bytes
MOST_TEXTS = 100_000
MOST_BETWEEN = 1 << 20  # bytes
LONGEST_KEY = 500
MOST_DIMENSIONS = 8
# The largest layer of SDXL has 30 million weights, and all have 2,600 million.
MOST_OF_ONE = 1 << 26  # numbers
MOST_OF_ALL = 1 << 30


def open_tensors(path: Path) -> safe_open:
    """Open the file, or raise a SafetensorError, too, where its header is made to take long."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # Longer than its file is that of what is no safetensors file: the library says so.
        if MOST_HEADER < length < path.stat().st_size:
            raise SafetensorError(f"its header has {length} bytes, of {MOST_HEADER} at most")
        _check_header(file.read(length) if length <= MOST_HEADER else b"")
    opened = safe_open(path, framework="pt")
    if (longest := max(map(len, opened.keys()), default=0)) > LONGEST_KEY:
        raise SafetensorError(f"it has a name of {longest} letters, of {LONGEST_KEY} at most")
    # Torch takes its time over each of them, for each other.
    dimensions = [len(opened.get_slice(key).get_shape()) for key in opened.keys()]  # noqa: SIM118
    if (most := max(dimensions, default=0)) > MOST_DIMENSIONS:
        raise SafetensorError(f"it has a tensor of {most} dimensions, of {MOST_DIMENSIONS} at most")
    return opened


def _check_header(header: bytes) -> None:
    # Without marks that are of a text, every second piece lies between two texts.
    pieces = header.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', 2 * MOST_TEXTS)
    if len(pieces) > 2 * MOST_TEXTS:
        raise SafetensorError(f"its header has more than {MOST_TEXTS} texts")
    if (between := sum(map(len, pieces[::2]))) > MOST_BETWEEN:
        raise SafetensorError(
            f"its header has {between} letters that are of no text, of {MOST_BETWEEN} at most"
        )


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors and the metadata, or raise a ValueError; nothing is executed."""
    try:
        with open_tensors(path) as file:
            keys = sorted(file.keys())
            _check_sizes({key: prod(file.get_slice(key).get_shape()) for key in keys})
            return {key: file.get_tensor(key) for key in keys}, file.metadata() or {}
    except SafetensorError as error:
        if path.suffix in _PICKLES or is_torch_file(_start_of(path)):
            raise ValueError(
                "is a pickle, which may run code as it is read, so it is not; where you trust it, "
                "load it and save it with safetensors.torch.save_file"
            ) from None
        raise ValueError(f"is no safetensors file, or a damaged one ({error})") from None


def _check_sizes(sizes: Mapping[str, int]) -> None:
    for key, size in sizes.items():
        if size > MOST_OF_ONE:
            raise ValueError(f"{key} has {size} numbers, {MOST_OF_ONE} at most are read")
    if (size := sum(sizes.values())) > MOST_OF_ALL:
        raise ValueError(f"has {size} numbers, {MOST_OF_ALL} at most are read of an adapter")


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write the tensors, as float32; a crash leaves the old file or the new one."""
    replace_file(path, encode_tensors(tensors, metadata))


def encode_tensors(tensors: Tensors, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file with the tensors, as float32."""
    # Copies: tensors that are views of one are refused.
    plain = {
        key: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for key, tensor in tensors.items()
    }
    return _with_sorted_header(save(plain, dict(metadata)))


def replace_file(path: Path, data: bytes) -> None:
    """Put a file with these bytes there; a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        # As bytes: safetensors itself writes files that only their owner may read.
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _with_sorted_header(data: bytes) -> bytes:
    # Several metadata keys come out in another order in every process. The header is JSON behind
    # its length, and says where among the bytes behind it a tensor is: sorted, it says the same.
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[start:]


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)
