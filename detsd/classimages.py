"""The pictures of the class that the model is not to forget: made once, and found again."""

import hashlib
import io
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image
from tqdm.auto import tqdm

from detsd import console
from detsd.config import ConfigError, PriorConfig
from detsd.data import usable_pictures
from detsd.images import ImageError, read_image
from detsd.model import StableDiffusion
from detsd.sampler import Request, Settings, generate, size_unit
from detsd.storage import flush
from detsd.trial import Trial

log = logging.getLogger(__name__)

CACHE = Path(".cache") / "detsd" / "class_images"  # below the home folder
ABOUT = "about.json"
# Pictures that are drawn together, whichever of them are missing: what one becomes, to the last
# bit, depends on its neighbours.
BLOCK = 16


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The trial was told to stop before its first step."""


def own_pictures(folder: Path) -> list[Path]:
    """Return the user's pictures of the class."""
    found = usable_pictures(folder)
    if not found:
        raise ConfigError([f"prior.class_dir: {folder} holds no picture that can be used"])
    return found


def made_pictures(
    prior: PriorConfig,
    model: StableDiffusion,
    size: int,
    trial: Trial,
    follows: Mapping[str, Any],
) -> list[Path]:
    """Return the pictures that the model makes of the class, which lie on the chief's machine.

    `follows` is all that they follow from; what another run has made of the same is not made again.
    """
    if size % size_unit(model):
        wanted = f"a multiple of {size_unit(model)} is wanted where pictures of the class are made"
        raise ConfigError([f"concepts.img_size: {wanted}, found {size}"])
    folder = (prior.cache_dir or Path.home() / CACHE).expanduser() / digest(follows)
    paths = [folder / f"{number:05d}.png" for number in range(prior.num_class_images)]
    blocks = [range(len(paths))[start : start + BLOCK] for start in range(0, len(paths), BLOCK)]
    there = trial.ask(lambda: {number for number, path in enumerate(paths) if _is_whole(path)})
    missing = [block for block in blocks if not there.issuperset(block)]
    if missing:
        count = len(paths) - len(there)
        more = len(prior.class_prompt) - 1
        of = f"{prior.prompt_of(0)!r}" + (f" and of {more} more prompts" if more else "")
        log.info("making %d pictures of %s, kept in %s", count, of, folder)
        if trial.is_chief:
            _open_folder(folder, follows)
        settings = Settings(prior.scheduler_name, {}, prior.num_inference_steps, (size, size))
        _make(prior, model, settings, trial, missing, paths, there)
    return paths


def digest(follows: Mapping[str, Any]) -> str:
    """Return a name for what follows from it."""
    text = json.dumps(follows, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _make(
    prior: PriorConfig,
    model: StableDiffusion,
    settings: Settings,
    trial: Trial,
    blocks: Sequence[range],
    paths: Sequence[Path],
    there: Collection[int],
) -> None:
    def draw(number: int) -> dict[int, bytes]:
        requests = [
            Request(
                prior.prompt_of(one), prior.generator_seed + one, prior.guidance_scale, settings
            )
            for one in blocks[number]
        ]
        return {blocks[number][place]: _png(image) for place, image in generate(model, requests)}

    watched = trial.is_chief and console.is_watched()
    count = sum(map(len, blocks))
    with tqdm(total=count, desc="class pictures", disable=not watched) as bar:
        for start in range(0, len(blocks), trial.size):
            if trial.should_stop():
                raise Stopped
            for made in trial.deal(draw, range(len(blocks))[start : start + trial.size]):
                for number, png in made.items():
                    # Those that are there stay, to the bit: other runs may have learnt from them.
                    if trial.is_chief and number not in there:
                        _write(paths[number], png)
                    bar.update()


def _is_whole(path: Path) -> bool:
    try:
        read_image(path)
    except ImageError:
        return False
    return True


def _open_folder(folder: Path, follows: Mapping[str, Any]) -> None:
    with _held(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # For a person who wonders what these pictures are.
    _write(folder / ABOUT, json.dumps(follows, indent=2, sort_keys=True).encode())


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    # Another run, on another machine even, may be making the very same one.
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    with _held(path.parent):
        try:
            part.write_bytes(content)
            flush(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            [f"prior.cache_dir: {folder} cannot hold pictures of the class ({error.strerror})"]
        ) from None
