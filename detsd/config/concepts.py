"""The `concepts` section: which words are learnt from which folders, as written and as records."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from detsd.config.read import (
    Count,
    Integer,
    Listed,
    ListedOrNone,
    Number,
    Probability,
    Section,
)
from detsd.names import why_not
from detsd.words import named, reworded

PARALLEL = ("concept_strs", "initializer_strs", "init_from", "learnable_properties", "img_dirs")
# What a concept of that many vectors leaves of the 77 tokens of a prompt is still a sentence.
MOST_VECTORS = 64
LONGEST_WORD = 100  # bytes: room for what its pictures and samples are called after


class Word(NamedTuple):
    """A new word: what it is called, what it starts from, how many vectors it has."""

    name: str
    initializer: str
    num_vectors: int | None
    source: str | None = None  # of the vectors, instead of those of the initializer's tokens


Property = Literal["object", "style"]


class Folder(NamedTuple):
    """A folder of pictures of one word; `templates` stand in for the ones of `learnable`."""

    word: str
    path: Path
    learnable: Property
    templates: tuple[str, ...] | None


def _a_word(name: str) -> str:
    if not name.strip() or name != name.strip():
        raise ValueError("a word is wanted, not blanks around or instead of one")
    if not any(character.isalnum() for character in name):
        raise ValueError("a word needs a letter or a digit")
    if len(name.encode()) > LONGEST_WORD:
        raise ValueError(f"a word names a file too: {LONGEST_WORD} bytes at most")
    if why := why_not(name):
        raise ValueError(f"no word can be called so: {why}")
    return name


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("a phrase is wanted; one vector is made for each of its tokens")
    return text


def a_folder(path: Path) -> Path:
    """Return the folder's path; one that is not there is refused."""
    path = path.expanduser()
    if not path.is_dir():
        raise ValueError("is not a folder" if path.exists() else "no such folder")
    return path


def _kept_where(value: Any) -> Any:
    if value is False:  # a YAML's off
        return "off"
    if value is not None and not (isinstance(value, (str, Path)) and str(value)):
        raise ValueError(f"a folder, off or null is wanted, found {value!r}")
    try:
        return value and Path(value).expanduser() if value != "off" else value
    except RuntimeError as error:  # ~somebody whom the system does not know
        raise ValueError(f"{value}: {error}") from None


def _a_template(template: str) -> str:
    rest = template.replace("{}", "", 1)
    if rest == template or "{" in rest or "}" in rest:
        raise ValueError("a template holds {} once, where the concept goes")
    return template


def _template_lists(value: Any) -> Any:
    flat = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    return [[value]] if isinstance(value, str) else [value] if flat else value


def _scale(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError("two shares of the picture's side are wanted, as in [0.8, 1.0]")
    return scale


Text = Annotated[str, AfterValidator(_not_blank)]
Templates = Annotated[tuple[Annotated[str, AfterValidator(_a_template)], ...], Field(min_length=1)]


class ConceptsConfig(Section):
    """What is learnt, from which pictures, and how these are prepared."""

    concept_strs: Annotated[tuple[Annotated[str, AfterValidator(_a_word)], ...], ListedOrNone] = ()
    """The words used in prompts, one a folder; the same word may stand for several folders."""
    initializer_strs: Annotated[tuple[Text | None, ...], ListedOrNone] = ()
    """A phrase a word: the new word starts as its tokens, one vector for each, or null."""
    init_from: Annotated[tuple[Text | None, ...], ListedOrNone] = ()
    """A concept a word to learn further, instead of a phrase: a file of any tool, a checkpoint's
    folder or UUID; null where the phrase is to do."""
    learnable_properties: Annotated[tuple[Property, ...], ListedOrNone] = ()
    """`object` or `style`: which of the built-in templates make the prompts."""
    img_dirs: Annotated[
        tuple[Annotated[Path, AfterValidator(a_folder)], ...], Listed, Field(min_length=1)
    ]
    """A folder of pictures a word; relative to the working folder."""
    num_vectors: Annotated[
        tuple[Annotated[Integer, Field(ge=1, le=MOST_VECTORS)] | None, ...] | None, Listed
    ] = None
    """Vectors of each word, when not one per initializer token: one number, or one an entry."""
    templates: Annotated[tuple[Templates | None, ...] | None, BeforeValidator(_template_lists)] = (
        None
    )
    """Own templates, a list a folder (or one list for all): `a portrait of {}`."""
    instance_prompt: Annotated[tuple[Text, ...] | None, Listed] = None
    """Instead of templates the one prompt of all pictures, or one a folder: `a fbernuy man`."""
    img_size: Annotated[Integer, Field(ge=8, le=4096)] | None = None
    """Side of the square that pictures are brought to; the model's own when absent."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    """How pictures are resized."""
    flip_p: Probability = 0.0
    """Chance of a mirrored picture, drawn anew at each use; it ruins logos, text and faces."""
    center_crop: bool = True
    """Crop to the middle square first; otherwise the picture is squeezed into it."""
    crop_scale: Annotated[tuple[Number, Number], AfterValidator(_scale)] | None = None
    """Random crops with sides of this share of the picture's, resized: [0.8, 1.0]."""
    crop_variants: Count = 8
    """How many random crops a picture are made, and kept, when `crop_scale` is set."""
    latents_dir: Annotated[Path | Literal["off"] | None, BeforeValidator(_kept_where)] = None
    """Where what pictures are encoded to is kept for other runs; in the home folder's .cache when
    absent. `off`: nowhere; pictures can be drawn again from it."""
    append_file_name_to_text: bool = False
    """Append the picture's file name, as words, to the prompt."""
    file_name_split_char: Annotated[str, Field(min_length=1)] = "_"
    """What separates the words of a file name."""
    num_blank_prompts: Annotated[Integer, Field(ge=0)] = 0
    """How many times the bare `{}` joins the templates."""
    num_a_prompts: Annotated[Integer, Field(ge=0)] = 0
    """How many times `a {}` joins the templates."""

    @cached_property
    def words(self) -> tuple[Word, ...]:
        """The words to learn, each once, in the order written."""
        length = len(self.concept_strs)
        initializers = [phrase or "" for phrase in self.initializer_strs or ("",) * length]
        sources = self.init_from or (None,) * length
        sizes = _spread(self.num_vectors, length)
        rows = zip(self.concept_strs, initializers, sizes, sources, strict=True)
        # A word named twice means the same both times: `disagreements` has seen to it.
        return tuple(dict.fromkeys(Word(*row) for row in rows))

    @cached_property
    def folders(self) -> tuple[Folder, ...]:
        """The folders to learn from, in the order written."""
        length = len(self.img_dirs)
        own = tuple((prompt,) for prompt in self.instance_prompt or ())
        learnable = self.learnable_properties or _spread(("object",), length)
        words, templates = self.concept_strs or ("",) * length, self.templates or own
        columns = (words, self.img_dirs, learnable, _spread(templates, length))
        return tuple(
            Folder(word, path, kind, lines and tuple(_blanked(line, word) for line in lines))
            for word, path, kind, lines in zip(*columns, strict=True)
        )

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Lists that should run in parallel and do not; a word that means two things."""
        lists = {key: _listed(raw.get(key)) for key in PARALLEL}
        lengths = {key: len(values) for key, values in lists.items() if values}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            yield "", f"one entry a folder is wanted in each of {', '.join(PARALLEL)}; {found}"
        entries = max(lengths.values(), default=0)
        for key, values in (
            ("num_vectors", _listed(raw.get("num_vectors"))),
            ("templates", _listed(_template_lists(raw.get("templates")))),
            ("instance_prompt", _listed(raw.get("instance_prompt"))),
        ):
            if raw.get(key) is not None and len(values) not in (1, entries):
                wanted = f"one entry a folder ({entries}) or a single one is wanted"
                yield key, f"{wanted}, found {len(values)}"
        if raw.get("templates") is not None and raw.get("instance_prompt") is not None:
            yield "instance_prompt", "stands instead of templates; leave out one of the two"
        words = [word for word in lists["concept_strs"] if isinstance(word, str)]
        for prompt in _listed(raw.get("instance_prompt")):
            if "{}" in str(prompt) and not words:
                yield "instance_prompt", f"no concept_strs for the {{}} of {prompt!r}"
        yield from _unnamed(words, _listed(raw.get("instance_prompt")))
        yield from _same_but_for_case(words)
        yield from _two_meanings(words, "initializer_strs", lists["initializer_strs"])
        yield from _two_meanings(words, "init_from", lists["init_from"])
        yield from _two_meanings(words, "num_vectors", _listed(raw.get("num_vectors")))


def _blanked(prompt: str, word: str) -> str:
    """Return the prompt as a template: with {} where the word stands, if one does."""
    return prompt if "{}" in prompt or not word else reworded(prompt, {word: "{}"})


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _spread(values: tuple[Any, ...] | None, length: int) -> tuple[Any, ...]:
    values = values or (None,)
    return values * length if len(values) == 1 else values


def _unnamed(words: list[str], prompts: list[Any]) -> Iterator[tuple[str, str]]:
    pairs = zip(words, prompts * len(words) if len(prompts) == 1 else prompts, strict=False)
    for word, prompt in dict.fromkeys((word, str(prompt)) for word, prompt in pairs):
        if "{}" not in prompt and not named(prompt, [word]):
            yield "instance_prompt", f"does not name {word}, found {prompt!r}"


def _same_but_for_case(words: list[str]) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for word in words:
        first = seen.setdefault(word.casefold(), word)
        if first != word:
            yield "concept_strs", f"{first} and {word} differ only in case, which prompts ignore"


def _two_meanings(words: list[str], key: str, values: list[Any]) -> Iterator[tuple[str, str]]:
    seen: dict[str, Any] = {}
    for word, value in zip(words, values, strict=False):
        if str(seen.setdefault(word, value)) != str(value):  # 3 and "3" mean the same
            yield key, f"{word} is named twice, with {seen[word]!r} and {value!r}; they must agree"
