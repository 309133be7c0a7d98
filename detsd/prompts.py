"""What is said of a training picture: templates, its file name, or a caption that came with it."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from detsd.config import ConceptsConfig, ConfigError, Folder
from detsd.words import named

log = logging.getLogger(__name__)

CAPTIONS = "captions.jsonl"
TEMPLATES = {
    "object": (
        "a photo of a {}",
        "a photo of the {}",
        "a photo of one {}",
        "a picture of a {}",
        "a picture of my {}",
        "a close-up of a {}",
        "a close-up photo of the {}",
        "a cropped photo of a {}",
        "a clear photo of the {}",
        "a bright photo of a {}",
        "a dark photo of a {}",
        "a detailed rendering of a {}",
        "a rendition of the {}",
        "an illustration of a {}",
        "a depiction of the {}",
        "a good photo of a {}",
        "a clean photo of the {}",
        "a nice view of a {}",
        "a small {}",
        "a large {}",
    ),
    "style": (
        "a painting in the style of {}",
        "a picture in the style of {}",
        "a drawing in the style of {}",
        "a rendering in the style of {}",
        "an illustration in the style of {}",
        "a close-up painting in the style of {}",
        "a cropped picture in the style of {}",
        "a bright painting in the style of {}",
        "a dark painting in the style of {}",
        "a detailed picture in the style of {}",
        "a clean drawing in the style of {}",
        "a large painting in the style of {}",
        "a small painting in the style of {}",
        "a weathered picture in the style of {}",
        "a rendition in the style of {}",
        "a nice painting in the style of {}",
    ),
}


def folder_templates(folder: Folder, config: ConceptsConfig) -> tuple[str, ...]:
    """Return the folder's own templates, or the built-in ones of its property.

    Without a word there are none but its own: nothing would be said but "a photo of a".
    """
    templates = folder.templates or (TEMPLATES[folder.learnable] if folder.word else ())
    return (
        *templates,
        *("{}",) * config.num_blank_prompts,
        *("a {}",) * config.num_a_prompts,
    )


def picture_prompts(
    image: Path, word: str, templates: Sequence[str], captions: Sequence[str], said: str
) -> tuple[str, ...]:
    """Return every prompt that may stand for `image`.

    A caption with `{}` or the word in it stands as it is; any other follows the templates, as
    `said`, the words of the file name, does. Where there is no word captions stand alone.
    """
    begun = [template.replace("{}", word) for template in templates]
    if not captions:
        return tuple(filter(None, (f"{text} {said}".strip() for text in begun or ("",))))
    prompts: list[str] = []
    for caption in captions:
        if word and "{}" in caption:
            prompts.append(caption.replace("{}", word))
        elif not begun or (word and named(caption, [word])):
            prompts.append(caption)
        else:
            prompts += (f"{text}, {caption}" for text in begun)
    return tuple(prompts)


def file_name_words(image: Path, config: ConceptsConfig) -> str:
    """Return the words of the file's name, when the config wants them said."""
    if not config.append_file_name_to_text:
        return ""
    return " ".join(filter(None, image.stem.split(config.file_name_split_char)))


def read_captions(folder: Path, images: Sequence[Path]) -> dict[Path, tuple[str, ...]]:
    """Return the captions that lie beside the images: `NAME.txt` first, then captions.jsonl."""
    listed = _read_jsonl(folder / CAPTIONS, {image.name for image in images})
    found = {image: _read_sidecar(image) or listed.get(image.name, ()) for image in images}
    return {image: captions for image, captions in found.items() if captions}


def sidecars(image: Path) -> tuple[Path, Path]:
    """Return where a caption of `image` may lie."""
    return image.with_suffix(".txt"), image.with_name(f"{image.name}.txt")


def _read_sidecar(image: Path) -> tuple[str, ...]:
    for path in sidecars(image):
        if path.is_file():
            lines = _read_text(path).splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return ()


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text ({error.reason})"]) from None


def _read_jsonl(path: Path, known: set[str]) -> dict[str, tuple[str, ...]]:
    captions: dict[str, tuple[str, ...]] = {}
    if not path.is_file():
        return captions
    # Not splitlines: JSON allows line separators of Unicode inside its strings.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            name, caption = _read_entry(line, f"{path}:{number}")
            if name not in known:
                log.warning("%s:%d: no readable picture is called %s", path, number, name)
            captions[name] = (*captions.get(name, ()), caption)
    return captions


def _read_entry(line: str, where: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError([f"{where}: is not JSON ({error.msg})"]) from None
    name, text = (_get_text(entry, *keys) for keys in (("file_name", "file"), ("text", "caption")))
    if name is None or text is None:
        raise ConfigError([f'{where}: {{"file_name": …, "text": …}} is wanted, found {line[:80]}'])
    return name, text.strip()


def _get_text(entry: object, *keys: str) -> str | None:
    values = [entry.get(key) for key in keys] if isinstance(entry, Mapping) else []
    return next((value for value in values if isinstance(value, str) and value.strip()), None)
