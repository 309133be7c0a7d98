"""What a grid's images are made with: a model, adapters and words, by checkpoint and adapter."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from detsd import fingerprint
from detsd.adapters import Adapter
from detsd.checkpoints import read_export, words_beside
from detsd.concepts import ConceptError
from detsd.config import ConfigError, GridConfig
from detsd.sweep import Wanted
from detsd.vocabulary import Known, Vocabulary, known


class Change(NamedTuple):
    """An adapter of the grid."""

    source: str  # as the config names it
    adapter: Adapter
    digest: str


class Materials(NamedTuple):
    """What those images are made with that share their checkpoint and adapter of the sweep."""

    model: str  # as the config names it
    model_digest: str  # of a checkpoint's; any other model is known by its name
    vocabulary: Vocabulary
    changes: tuple[Change, ...]
    swept: Change | None  # counts as much as an image says

    @property
    def every_change(self) -> list[Change]:
        """All adapters, the sweep's last."""
        return [*self.changes, *([self.swept] if self.swept else [])]

    def weighed(self, one: Wanted) -> list[tuple[Change, float]]:
        """Return each adapter, and how much it counts in the image."""
        scales = [1.0] * len(self.changes) + [one.adapter_scale or 0.0]
        return list(zip(self.every_change, scales, strict=False))

    def scales(self, one: Wanted) -> list[tuple[str, float]]:
        """Return how much an adapter counts, by its digest, of those that count at all."""
        scales: dict[str, float] = {}
        for change, scale in self.weighed(one):
            scales[change.digest] = scales.get(change.digest, 0.0) + scale
        # In one order, however the config has them: the last bits of a sum depend on it.
        return sorted((digest, scale) for digest, scale in scales.items() if scale)


Stock = Mapping[tuple[str | None, str | None], Materials]


class _Source(NamedTuple):
    """A checkpoint of the config."""

    name: str
    words: tuple[Known, ...]
    change: Change | None
    model_digest: str


def read_stock(config: GridConfig) -> Stock:
    """Return what there is for each checkpoint with each adapter of the sweep."""
    sweep, file = config.sweep, config.pipeline.learned_embeddings_filename
    shared_names = (*map(str, config.local_checkpoint_paths), *config.uuids)
    shared = [_read(name, file) for name in dict.fromkeys(shared_names)]
    names = (*sweep.checkpoint, *sweep.adapter) if sweep else ()
    # A word stands for another concept with each of them.
    told_apart = [_read(name, file, number) for number, name in enumerate(names)]
    count = len(sweep.checkpoint) if sweep else 0
    compared, swept = told_apart[:count], told_apart[count:]
    _refuse_words_twice(shared)
    _refuse_models(shared, compared, swept)
    found = {}
    for own, drawn in product(_each(compared), _each(swept)):
        key = (own[0].name if own else None, drawn[0].name if drawn else None)
        found[key] = _materials(config, [*shared, *own], drawn)
    return found


def _each(sources: Sequence[_Source]) -> list[list[_Source]]:
    return [[one] for one in sources] or [[]]


def _read(name: str, file: str, number: int | None = None) -> _Source:
    export = read_export(name, file)
    adapter = export.adapter
    return _Source(
        name,
        tuple(known(export.concepts, name, number)),
        Change(name, adapter, fingerprint.of_adapter(adapter)) if adapter else None,
        fingerprint.of_folder(export.model) if export.model else "",
    )


def _materials(
    config: GridConfig, sources: Sequence[_Source], drawn: Sequence[_Source]
) -> Materials:
    base = config.pipeline.pretrained_model_name_or_path
    whole = next((one for one in sources if one.model_digest), None)
    words = [word for one in [*sources, *drawn] if not one.model_digest for word in one.words]
    # Those beside the model give way to those that are named: a word may have been learnt further.
    beside = whole.words if whole else tuple(known(words_beside(base), base))
    words += [word for word in beside if word.name not in {one.name for one in words}]
    return Materials(
        *((whole.name, whole.model_digest) if whole else (base, "")),
        vocabulary=Vocabulary(words),
        # One that is named twice is there once.
        changes=tuple({one.change.digest: one.change for one in sources if one.change}.values()),
        swept=drawn[0].change if drawn else None,
    )


def _refuse_words_twice(shared: Sequence[_Source]) -> None:
    first: dict[str, str] = {}
    for word in (word for one in shared if not one.model_digest for word in one.words):
        if word.name in first:
            raise ConceptError(
                f"{word.name} is in {first[word.name]} and in {word.source}; to compare them, name "
                "both in sweep.checkpoint"
            )
        first[word.name] = word.source


def _refuse_models(
    shared: Sequence[_Source], compared: Sequence[_Source], swept: Sequence[_Source]
) -> None:
    problems = [
        f"sweep.adapter: {one.name} holds no adapter; name it in sweep.checkpoint"
        for one in swept
        if not one.change
    ]
    whole, others = ([one.name for one in some if one.model_digest] for some in (shared, compared))
    clash = [*whole, *others[:1]]
    if whole and len(clash) > 1:
        problems.append(
            f"sweep.checkpoint: {clash[0]} and {clash[1]} are whole models, of which an image has "
            "one; to compare them, name both here, and not in uuids or local_checkpoint_paths"
        )
    if problems:
        raise ConfigError(problems)
