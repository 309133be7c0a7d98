"""How a mapping becomes a frozen record, or one error that names every problem with it."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator


class ConfigError(ValueError):
    """Everything that is wrong with a config, a line a problem."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Section(BaseModel):
    """A frozen part of a config; a key that it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_are_defaults(cls, values: Any) -> Any:
        # `inference:` with every line under it commented out is null, and means the defaults.
        if not isinstance(values, Mapping):
            return values
        inner = _sections(cls)
        return {
            key: value for key, value in values.items() if value is not None or key not in inner
        }

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(key, message) for each pair of values, as written, that cannot both be meant."""
        yield from ()


R = TypeVar("R", bound=Section)


def _as_number(value: Any) -> Any:
    # YAML 1.1 readers hand 5e-4 over as text, and a cluster sends a double of 6.0 as the int 6.
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError("a number is wanted") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number is wanted")
    return value


def listed(value: Any) -> Any:
    """Return a scalar as the list of one that is meant by it."""
    return (
        [value] if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value
    )


def _as_arguments(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return {} if value is None else value
    return {key: _number_if_it_is_one(item) for key, item in value.items()}


def _number_if_it_is_one(value: Any) -> Any:
    try:
        return _as_number(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_as_number)]
Integer = Annotated[int, BeforeValidator(_as_number)]
Count = Annotated[Integer, Field(ge=1)]
Seed = Annotated[Integer, Field(ge=0, lt=2**63)]
Probability = Annotated[Number, Field(ge=0, le=1)]
Off = BeforeValidator(lambda value: "off" if value is False else value)  # a YAML's off is false
Listed = BeforeValidator(listed)  # a scalar is accepted where a list of one is meant
ListedOrNone = BeforeValidator(lambda value: () if value is None else listed(value))
Extra = Annotated[dict[str, Any], BeforeValidator(_as_arguments)]


def read(kind: type[R], values: Any, root: str = "") -> R:
    """Return `values` as a `kind`; every problem, not just the first, is in the error."""
    if not isinstance(values, Mapping):
        raise ConfigError([f"{root or 'hyperparameters'}: a mapping is wanted, found {values!r}"])
    problems: list[str] = []
    record = None
    try:
        record = kind.model_validate(dict(values))
    except ValidationError as error:
        problems = [_describe(kind, found, root) for found in error.errors()]
    problems += [f"{_join(root, key)}: {text}" for key, text in _all_disagreements(kind, values)]
    if problems or record is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    return record


def _all_disagreements(kind: type[Section], raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from kind.disagreements(raw)
    for name, kinds in _sections(kind).items():
        if isinstance(raw.get(name), Mapping):
            inner = _of_kind(kinds, raw[name].get("kind"))
            for key, text in _all_disagreements(inner, raw[name]):
                yield _join(name, key), text


def _sections(kind: type[BaseModel]) -> dict[str, list[type[Section]]]:
    """Return what may stand under each key that holds a section."""
    found = {
        name: [
            option
            for option in (field.annotation, *get_args(field.annotation))  # as in `Section | None`
            if isinstance(option, type) and issubclass(option, Section)
        ]
        for name, field in kind.model_fields.items()
    }
    return {name: kinds for name, kinds in found.items() if kinds}


def _of_kind(kinds: Sequence[type[Section]], kind: object) -> type[Section]:
    """Return the one of them whose key `kind` may say that; the first one else."""
    named = (one for one in kinds if kind in get_args(_annotation(one)))
    return next(named, kinds[0])


def _annotation(section: type[Section]) -> Any:
    field = section.model_fields.get("kind")
    return field and field.annotation


def _located(
    kind: type[Section], location: Sequence[int | str]
) -> tuple[type[Section], list[int | str]]:
    """Return the section that holds the last key, and the way to it as a YAML has it."""
    here, way = kind, list[int | str]()
    parts = list(location)
    while parts:
        part = parts.pop(0)
        way.append(part)
        kinds = _sections(here).get(str(part))
        if kinds and parts:
            # Where there are several, pydantic puts the kind into the way.
            here = _of_kind(kinds, parts.pop(0) if len(kinds) > 1 else None)
    return here, way


def _join(root: str, key: str) -> str:
    return f"{root}.{key}" if root and key else root or key


def _describe(kind: type[Section], error: Any, root: str) -> str:
    path = ""
    section, way = _located(kind, error["loc"])
    for part in way:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    where = _join(root, path)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown; {_suggest(kind, section, str(way[-1]))}"
    if error["type"].startswith("union_tag"):
        kinds = (
            one for name in _sections(section)[str(way[-1])] for one in get_args(_annotation(name))
        )
        found = repr(error["input"].get("kind"))
        return f"{where}.kind: one of {', '.join(kinds)} is wanted, found {found}"
    if error["type"] == "missing":
        return f"{where}: missing; it has no default"
    if error["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return f"{where}: a mapping is wanted, found {error['input']!r}"
    text = error["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    found = repr(error["input"])
    return f"{where}: {text}, found {found[:80]}{'…' if len(found) > 80 else ''}"


def _suggest(root: type[Section], here: type[Section], unknown: str) -> str:
    near = difflib.get_close_matches(unknown, here.model_fields, n=1)
    if near:
        return f"did you mean {near[0]}?"
    for name, kinds in _sections(root).items():
        known = {key for inner in kinds for key in inner.model_fields}
        elsewhere = difflib.get_close_matches(unknown, sorted(known), n=1, cutoff=0.85)
        if elsewhere:
            return f"did you mean {name}.{elsewhere[0]}?"
    return f"known here: {', '.join(sorted(here.model_fields))}"
