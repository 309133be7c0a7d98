"""The convert command: what was learnt, into files of another layout."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from detsd.adapters import FILE, LAYOUTS, SUFFIX, Adapter, write_adapter
from detsd.concepts import EARLIER_FILE, Concept, encode_concepts, kind_of_file
from detsd.learnt import Learnt, read_learnt
from detsd.names import why_not
from detsd.tensorfile import replace_file

# What ends so is meant to be a file, and anything else to be a folder.
_OF_FILES = (SUFFIX, ".pt", ".bin", ".ckpt", ".pth", ".png", ".webp")


class ConvertError(ValueError):
    """What is wanted cannot be written, or not there."""


class Output(NamedTuple):
    """A file that is to be: what writes it, and what it holds, in words."""

    path: Path
    write: Callable[[], None]
    holds: str


def convert(
    sources: Sequence[str], target: Path, layout: str = "diffusers", name: str | None = None
) -> Iterator[str]:
    """Write what the sources hold into `target`, a file or a folder; yield a line for each file.

    All is read before anything is written, so that an output may take an input's place.
    """
    if name is not None and (why := why_not(name)):
        raise ConvertError(f"--name: {name!r} cannot be a concept's name: {why}")
    found = [one for source in sources for one in read_learnt(source, name)]
    words = [one.what for one in found if isinstance(one.what, Concept)]
    _refuse_names(words, name)
    if _is_a_file(target):
        _refuse_several(found, words, target, layout)
    outputs = [
        _adapter_output(one, one.what, target, layout)
        for one in found
        if isinstance(one.what, Adapter)
    ]
    outputs += _word_outputs(words, target, layout)
    _refuse_the_same_place(outputs)
    yield from (_written(output, layout) for output in outputs)


def _refuse_names(words: Sequence[Concept], name: str | None) -> None:
    if name is not None and len(words) != 1:
        raise ConvertError(f"--name {name} is for one concept, found {len(words)}")
    # Prompts ignore case, and so do the names of files on some disks.
    counts = Counter(word.name.casefold() for word in words)
    if same := [word.name for word in words if counts[word.name.casefold()] > 1]:
        raise ConvertError(
            f"{same[0]} is the name of more than one concept, in this or another case; convert "
            "them one after the other, with --name"
        )


def _is_a_file(target: Path) -> bool:
    return target.suffix in _OF_FILES and not target.is_dir()


def _refuse_several(
    found: Sequence[Learnt], words: Sequence[Concept], target: Path, layout: str
) -> None:
    in_one = len(words) == len(found) and kind_of_file(words, layout).holds_several
    if len(found) > 1 and not in_one:
        several = f"{len(words)} concepts" if len(words) > 1 else "a concept"
        what = several if len(words) == len(found) else f"{several} and adapters (LoRA)"
        what = what if words else f"{len(found)} adapters (LoRA)"
        raise ConvertError(
            f"{target}: {what} do not go into one file of {_whose(layout)} layout; a folder is "
            "wanted"
        )


def _adapter_output(one: Learnt, adapter: Adapter, target: Path, layout: str) -> Output:
    if layout not in LAYOUTS:
        raise ConvertError(
            f"{one.file}: is an adapter (LoRA), for which the format {' or '.join(LAYOUTS)} is "
            f"wanted, found {layout}; to convert the concepts beside it, name their files"
        )
    path = _path(target, _adapter_name(one, layout), SUFFIX)
    ranks = sorted({layer.rank for layer in adapter.layers.values()})
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    count = len(adapter.layers)
    holds = f"{count} module{'s' * (count > 1)}, {rank}"
    return Output(path, partial(write_adapter, path, adapter, layout), holds)


def _adapter_name(one: Learnt, layout: str) -> str:
    if layout == "diffusers":
        return FILE  # which diffusers looks for
    named = one.source.absolute() if one.file.name == FILE else one.file
    stem = named.stem if named.suffix.lower() in _OF_FILES else named.name
    return f"{stem}{SUFFIX}"


def _word_outputs(words: Sequence[Concept], target: Path, layout: str) -> list[Output]:
    if words and kind_of_file(words, layout).holds_several:
        return [_word_output(words, target, EARLIER_FILE, layout)]
    return [
        _word_output([word], target, f"{word.name}{kind_of_file([word], layout).suffix}", layout)
        for word in words
    ]


def _word_output(words: Sequence[Concept], target: Path, name: str, layout: str) -> Output:
    path = _path(target, name, kind_of_file(words, layout).suffix)
    # Made now: a mistake in one of several files is to be known before the first is written.
    data = encode_concepts(words, layout)
    return Output(path, partial(replace_file, path, data), ", ".join(map(_described, words)))


def _path(target: Path, name: str, suffix: str) -> Path:
    """Return the file to write: `target`, or one of that name in it."""
    if not _is_a_file(target):
        return target / name
    if target.suffix != suffix:
        raise ConvertError(f"{target}: a {suffix} file or a folder is wanted")
    return target


def _refuse_the_same_place(outputs: Sequence[Output]) -> None:
    counts = Counter(str(output.path).casefold() for output in outputs)
    if twice := [one.path for one in outputs if counts[str(one.path).casefold()] > 1]:
        raise ConvertError(
            f"{twice[0]}: would be written more than once; convert them one after the other, with "
            "a file as OUT"
        )


def _written(output: Output, layout: str) -> str:
    try:
        output.write()
    except OSError as error:
        raise ConvertError(f"{output.path} could not be written: {error.strerror}") from error
    size = output.path.stat().st_size
    spelt = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
    return f"{output.path}: {output.holds}, {_whose(layout)} layout, {spelt}"


def _described(word: Concept) -> str:
    count = word.num_vectors
    widths = "+".join(str(rows.shape[1]) for _, rows in sorted(word.vectors.items(), reverse=True))
    return f"{word.name} ({count} vector{'s' * (count > 1)} of {widths})"


def _whose(layout: str) -> str:
    return f"{layout}'" if layout.endswith("s") else f"{layout}'s"
