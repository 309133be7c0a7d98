"""The training pictures: which files, what is said of them, and what the VAE makes of them."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL.Image import Image

from detsd import images, prompts
from detsd.ahead import Ahead
from detsd.config import ConceptsConfig, ConfigError, Folder

log = logging.getLogger(__name__)

Deal = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]  # as the built-in map
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # pixels → mean, std
CROP_SEED = 0


class Example(NamedTuple):
    """A picture, all the prompts that may stand for it, and its weight in the loss."""

    image: Path
    captions: tuple[str, ...]
    weight: float = 1.0


class Latents(NamedTuple):
    """What the VAE makes of each variant of each example; each use draws a fresh sample."""

    mean: torch.Tensor  # (examples, variants, channels, height, width)
    std: torch.Tensor
    origins: torch.Tensor  # (examples, variants, 4): see images.Prepared


def stream(seed: int, slot: int, purpose: str) -> torch.Generator:
    """Return the random numbers that `slot` has for `purpose`, the same whenever they are drawn."""
    digest = hashlib.blake2b(f"{seed}/{slot}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))


def read_examples(config: ConceptsConfig) -> list[Example]:
    """Return the readable pictures of every folder, sorted; an empty folder is an error."""
    examples: list[Example] = []
    problems: list[str] = []
    for folder in config.folders:
        found = _read_folder(folder, config)
        for example in found:
            if not example.captions:
                problems.append(
                    f"concepts.concept_strs: nothing says what {example.image} shows: a caption "
                    "beside it, a word or an instance_prompt is wanted"
                )
                break
        if not found:
            problems.append(f"concepts.img_dirs: {folder.path} holds no picture that can be used")
        examples += found
    if problems:
        raise ConfigError(problems)
    return examples


def _read_folder(folder: Folder, config: ConceptsConfig) -> list[Example]:
    pictures = usable_pictures(folder.path)
    captions = prompts.read_captions(folder.path, pictures)
    templates = prompts.folder_templates(folder, config)
    return [
        Example(
            path,
            prompts.picture_prompts(
                path,
                folder.word,
                templates,
                captions.get(path, ()),
                prompts.file_name_words(path, config),
            ),
        )
        for path in pictures
    ]


def usable_pictures(folder: Path) -> list[Path]:
    """Return the pictures that can be read, sorted; warn of those that cannot."""
    listed = list_pictures(folder)
    with images.strictly():
        problems = list(Ahead(_why_not, listed))
    for problem in filter(None, problems):
        log.warning("%s: skipped", problem)
    return [path for path, problem in zip(listed, problems, strict=True) if problem is None]


def list_pictures(folder: Path) -> list[Path]:
    """Return the files named as pictures, sorted; warn of any other that is no caption of one."""
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    pictures = [
        path for path in entries if path.suffix.lower() in images.FORMATS and path.is_file()
    ]
    expected = {sidecar for path in pictures for sidecar in prompts.sidecars(path)}
    for path in sorted(set(entries) - set(pictures) - expected - {folder / prompts.CAPTIONS}):
        log.warning("%s is passed over: it is no picture", path)
    return pictures


def _why_not(path: Path) -> images.ImageError | None:
    try:
        images.decode_image(path, roughly=True)
    except images.ImageError as error:
        return error
    return None


def cache_latents(
    examples: Sequence[Example],
    encode: Encode,
    config: ConceptsConfig,
    size: int,
    deal: Deal = map,
) -> Latents:
    """Encode every variant of the examples once; `deal` is a map that may share out its work."""

    def read(index: int) -> tuple[int, Image]:
        return index, images.decode_image(examples[index].image)

    def encode_example(numbered: tuple[int, Image]) -> Latents:
        index, image = numbered
        encoded, origins = [], []
        # One at a time: what a picture becomes must not depend on its neighbours.
        for variant in _variants(image, index, config, size):
            encoded.append(encode(variant.pixels[None]))
            origins.append(variant.origin)
        mean, std = (torch.cat(part).cpu().contiguous() for part in zip(*encoded, strict=True))
        return Latents(mean, std, torch.tensor(origins))

    with images.strictly():
        rows = list(deal(encode_example, Ahead(read, range(len(examples)))))
    return Latents(*(torch.stack(column) for column in zip(*rows, strict=True)))


def _variants(
    image: Image, index: int, config: ConceptsConfig, size: int
) -> Iterator[images.Prepared]:
    view = images.middle(image) if config.center_crop else images.whole(image)
    views = [view]
    if config.crop_scale:
        low, high = config.crop_scale
        # The same crops whatever the run's seed: validation sees one of them in every run.
        generator = stream(CROP_SEED, index, "crops")
        draws = torch.rand(config.crop_variants, 3, generator=generator).tolist()
        views = [images.part(view, low + s * (high - low), x, y) for s, x, y in draws]
    for flip in (False, True) if config.flip_p else (False,):
        for view in views:
            yield images.prepare(image, view, size, config.interpolation, flip)
