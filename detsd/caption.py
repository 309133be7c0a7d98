"""Captions for pictures that have none."""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from detsd.captioner import Captioner, CaptionError
from detsd.console import is_watched
from detsd.data import list_pictures
from detsd.images import FORMATS, ImageError, read_image
from detsd.prompts import read_captions, sidecars
from detsd.storage import write_whole

log = logging.getLogger(__name__)

BATCH = 8


class Tally(NamedTuple):
    """What became of the pictures of a folder."""

    written: int
    there: int
    unreadable: int
    left: int  # for want of words, or of a place for them

    def __str__(self) -> str:
        said = (
            f"captions written: {self.written}, there already: {self.there}; "
            f"pictures that could not be read: {self.unreadable}"
        )
        return f"{said}, left as they are: {self.left}" if self.left else said


def caption_folder(folder: Path, load: Callable[[], Captioner], *, overwrite: bool) -> Tally:
    """Write a caption beside each picture that has none, or beside all of them.

    The model is loaded only where there is something to caption.
    """
    if not folder.is_dir():
        raise CaptionError(f"{folder}: no such folder; one with pictures is wanted")
    pictures = list_pictures(folder)
    if not pictures:
        raise CaptionError(f"{folder} holds no picture; wanted are {', '.join(FORMATS)}")
    there = {} if overwrite else read_captions(folder, pictures)
    wanted = [path for path in pictures if path not in there]
    became: Counter[str] = Counter()
    if wanted:
        with _writing(folder), tempfile.TemporaryFile(dir=folder):
            pass  # sooner than after minutes of loading
        became.update(_caption(wanted, load(), _places(pictures)))
    return Tally(became["written"], len(there), became["unreadable"], became["left"])


def _places(pictures: Sequence[Path]) -> dict[Path, Path]:
    """Return the file for each picture's caption, where it has one of its own.

    `a.txt` belongs to both `a.jpg` and `a.png`: they have `a.jpg.txt` and `a.png.txt`, unless
    there is an `a.txt`, which would be read in their stead.
    """
    owners = Counter(path for picture in pictures for path in sidecars(picture))
    places = {}
    for picture in pictures:
        read = [path for path in sidecars(picture) if path.is_file()][:1]
        own = [path for path in read or sidecars(picture) if owners[path] == 1]
        if own:
            places[picture] = own[0]
    return places


def _caption(
    wanted: Sequence[Path], captioner: Captioner, places: Mapping[Path, Path]
) -> Iterator[str]:
    bar = tqdm(total=len(wanted), unit="picture", disable=not is_watched())
    with bar, logging_redirect_tqdm():
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            read = {path: image for path in batch if (image := _read(path))}
            yield from ["unreadable"] * (len(batch) - len(read))
            for path, caption in zip(read, captioner.say(list(read.values())), strict=True):
                yield "written" if _write(path, caption, places.get(path)) else "left"
            bar.update(len(batch))


def _read(path: Path) -> Image.Image | None:
    try:
        return read_image(path)
    except ImageError as error:
        log.warning("%s: skipped", error)
        return None


def _write(picture: Path, caption: str, place: Path | None) -> bool:
    if not caption:
        log.warning("%s: skipped, the model says nothing of it", picture)
        return False
    if place is None:
        log.warning("%s: skipped, its .txt would caption another picture, too", picture)
        return False
    with _writing(place):
        write_whole(place, f"{caption}\n")
    return True


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CaptionError(f"{path} cannot be written: {error.strerror}") from error
