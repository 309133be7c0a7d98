"""The convert command: an adapter into a file of another layout."""

from pathlib import Path

from detsd.adapters import (
    FILE,
    SUFFIX,
    Adapter,
    AdapterError,
    ConceptFoundError,
    read_adapter,
    write_adapter,
)
from detsd.fetch import fetch_checkpoint

_OTHER_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")


def convert(source: str, target: Path, layout: str) -> str:
    """Write the adapter of a file, a checkpoint's folder or UUID; return what was written."""
    path = Path(source) if Path(source).exists() else fetch_checkpoint(source)
    try:
        adapter = read_adapter(path)
    except ConceptFoundError as error:
        raise AdapterError(f"{error}; only adapters are converted so far") from None
    file = _file(path, target, layout)
    try:
        write_adapter(file, adapter, layout)
    except OSError as error:
        raise AdapterError(f"{file} could not be written: {error.strerror}") from error
    return _said(file, adapter, layout)


def _file(source: Path, target: Path, layout: str) -> Path:
    """Return the file to write: `target`, or one in it."""
    if target.suffix in _OTHER_SUFFIXES:
        raise AdapterError(f"{target}: a {SUFFIX} file or a folder is wanted")
    if target.suffix == SUFFIX and not target.is_dir():
        return target
    if layout == "diffusers":
        return target / FILE  # the name that diffusers looks for
    return target / f"{source.name.removesuffix(SUFFIX)}{SUFFIX}"


def _said(file: Path, adapter: Adapter, layout: str) -> str:
    count, ranks = len(adapter.layers), sorted({one.rank for one in adapter.layers.values()})
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    modules = f"{count} module{'s' * (count > 1)}"
    whose = "kohya's" if layout == "kohya" else "diffusers'"
    return f"{file}: {modules}, {rank}, {whose} layout, {file.stat().st_size / 1e6:.1f} MB"
