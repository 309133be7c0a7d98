"""The vectors of new words: they alone learn, each by its own prompts, and keep their norms."""

import pytest
import torch

from detsd.batches import Batch
from detsd.concepts import read_concepts
from detsd.config import TrainingConfig, read
from detsd.norms import Norms
from detsd.vectors import Vectors

FAMILIES = ("sd1", "sdxl")
WORDS = {"det-logo": "brain logo, sharp lines", "det-cat": "soft colors"}


def attached(model, times=1, **keys):
    """Return the vectors of two words in the model, and the rows by name."""
    concepts = [model.text.initial_concept(word, start, None) for word, start in WORDS.items()]
    for vectors in (vectors for concept in concepts for vectors in concept.vectors.values()):
        vectors *= times
    part = Vectors(read(TrainingConfig, keys), concepts, model, Norms(model.text.tables()))
    (group,) = part.parameter_groups()
    return part, dict(group["params"])


def batch(*captions, of_class=()):
    """Return samples of which nothing but the captions matters."""
    count = len(captions)
    told = torch.tensor([caption in of_class for caption in captions])
    weights, nothing = torch.full((count,), 0.25), torch.zeros(count)
    rows = tuple(told.nonzero().flatten().tolist())
    return Batch(nothing, nothing, nothing, captions, nothing, weights, told, rows, 0.5, 0)


@torch.no_grad()
def come_some_way(rows, factor=1.5):
    for value in rows.values():
        value *= factor


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompts_own_rows_learn_and_nothing_else(load, family):
    model = load(family)
    tables = [encoder.module.get_input_embeddings().weight.clone() for encoder in model.encoders]
    part, rows = attached(model)
    before = part.state_dict()
    optimizer = torch.optim.SGD([{"params": list(rows.items())}], lr=1.0)
    states = model.encode_prompts(["a photo of a det-cat"]).states
    (
        states * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    ).sum().backward()
    optimizer.step()
    moved = {name for name, value in part.state_dict().items() if not value.equal(before[name])}
    assert moved == {name for name in rows if name.startswith("det-cat/")}
    for encoder, table in zip(model.encoders, tables, strict=True):
        assert torch.equal(encoder.module.get_input_embeddings().weight, table)
    learning = [value for one in model.modules.values() for value in one.parameters()]
    assert sum(value.requires_grad for value in learning) == len(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bound_norm_is_the_vocabularys_and_a_free_one_is_left(load, family):
    for kind in ("free", "vocabulary"):
        model = load(family)
        part, rows = attached(model, embedding_norm=kind)
        come_some_way(rows)
        before = {name: value.detach().clone() for name, value in rows.items()}
        part.after_step(0)
        for name, value in rows.items():
            key = name.rpartition("/")[2]
            (table,) = (
                one.module.get_input_embeddings().weight for one in model.encoders if one.key == key
            )
            median = table.norm(dim=1).median()
            wanted = before[name]
            if kind == "vocabulary":
                wanted = wanted / wanted.norm(dim=1, keepdim=True) * median
            assert torch.allclose(value, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_told_beside_the_vocabularys_and_cost_by_their_distance(load, family):
    model = load(family)
    part, rows = attached(model, norm_reg_weight=0.1)
    means = {
        one.key: one.module.get_input_embeddings().weight.norm(dim=1).mean()
        for one in model.encoders
    }
    with torch.no_grad():
        for name, value in rows.items():
            value *= 3 * means[name.rpartition("/")[2]] / value.norm(dim=1, keepdim=True)
    assert part.metrics() == {"embedding_norm_ratio": pytest.approx(3, rel=1e-5)}
    terms = part.penalties(model, batch("a det-logo"), model.encode_prompts(["a det-logo"]))
    squares = sum(
        len(value) * (2 * means[name.rpartition("/")[2]]) ** 2 for name, value in rows.items()
    )
    assert terms.keys() == {"norm_reg_loss"} == {*part.terms}
    assert terms["norm_reg_loss"].item() == pytest.approx(0.1 * 0.5 * squares.item(), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_prompt_has_become_costs_by_its_distance_from_the_initializers(load, family):
    model = load(family)
    part, rows = attached(model, hidden_reg_weight=2.0)
    captions = ("a photo of a det-logo", "a det-cat", "a photo of a logo")

    def cost(*captions, of_class=()):
        conditioning = model.encode_prompts(captions)
        terms = part.penalties(model, batch(*captions, of_class=of_class), conditioning)
        return terms["hidden_reg_loss"]

    assert cost(*captions).item() == 0
    begun = [model.encode_prompts([caption]).states.detach() for caption in captions]
    come_some_way(rows)
    now = [model.encode_prompts([caption]).states.detach() for caption in captions]
    each = [2.0 * 0.25 * (a - b).square().mean().item() for a, b in zip(begun, now, strict=True)]
    assert each[0] > 0 and each[1] > 0 and each[2] == 0
    assert cost(*captions).item() == pytest.approx(sum(each), rel=1e-4)
    assert cost(*captions, of_class=captions[1:]).item() == pytest.approx(each[0], rel=1e-4)
    cost(*captions).backward()
    assert all(value.grad.abs().sum() > 0 for value in rows.values())


def test_the_distance_is_from_the_first_vectors_also_after_a_stop(load):
    part, rows = attached(load("sd1"), times=2)  # as a start from another run's words may be
    assert part.moved().share == 0
    come_some_way(rows, 1.25)
    again, _ = attached(load("sd1"))
    assert again.load_state_dict(part.state_dict()) == []
    for one in (part, again):
        assert one.moved().share == pytest.approx(0.25)


def test_a_word_of_another_length_than_in_the_state_starts_anew(load):
    part, rows = attached(load("sd1"))
    come_some_way(rows)
    state = part.state_dict()
    state["det-logo/clip_l"] = state["det-logo/clip_l"][:2]
    again, others = attached(load("sd1"))
    first = others["det-logo/clip_l"].detach().clone()
    assert again.load_state_dict(state) == ["det-logo/clip_l"]
    assert torch.equal(others["det-logo/clip_l"], first)
    assert torch.equal(others["det-cat/clip_l"], rows["det-cat/clip_l"])


def test_the_file_has_the_rows_and_what_they_began_as(load, tmp_path):
    part, rows = attached(load("sdxl"))
    come_some_way(rows)
    part.export(tmp_path, {"steps": 5, "base_model": "a/b"})
    found = read_concepts(tmp_path)
    assert [(one.name, one.initializer) for one in found] == sorted(WORDS.items())
    for concept in found:
        assert concept.about["steps"] == 5
        assert concept.vectors.keys() == {"clip_l", "clip_g"}
        for key, vectors in concept.vectors.items():
            assert torch.equal(vectors, rows[f"{concept.name}/{key}"])
