"""A safetensors file: written whole, with the same bytes in every process, and read with care."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detsd.torchfile import is_torch_file

Tensors = dict[str, torch.Tensor]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors and the metadata, or raise a ValueError; nothing is executed."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in sorted(file.keys())}, file.metadata() or {}
    except SafetensorError as error:
        if path.suffix in _PICKLES or is_torch_file(_start_of(path)):
            raise ValueError(
                "is a pickle, which may run code as it is read, so it is not; where you trust it, "
                "load it and save it with safetensors.torch.save_file"
            ) from None
        raise ValueError(f"is no safetensors file, or a damaged one ({error})") from None


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
