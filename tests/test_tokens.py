"""A concept in a tokenizer, a text encoder and a prompt."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from detsd.concepts import ConceptError
from detsd.model import StableDiffusion
from detsd.tokens import ConceptEmbedding, add_concept, initial_vectors
from detsd.words import expand, named, pieces

NUMBERS = {
    "det-logo": 2,
    "det-logo-demo": 1,
    "<cat>": 1,
    "c++": 1,
    "a.b": 1,
    "two words": 2,
    "naïve": 1,
}
L, D = "<det-logo:0> <det-logo:1>", "<det-logo-demo:0>"


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a det-logo", f"a {L}"),
        ("det-logo", L),
        ("a det-logo-demo", f"a {D}"),
        ("det-logo and det-logo-demo, det-logo", f"{L} and {D}, {L}"),
        ("(det-logo), det-logo. det-logo! 'det-logo'", f"({L}), {L}. {L}! '{L}'"),
        ("a det-logo's edge", f"a {L}'s edge"),
        ("a Det-Logo and DET-LOGO-DEMO", f"a {L} and {D}"),
        ("det-logos, mydet-logo, det-logo2, det-logo_x", None),
        ("det-logo-demos, my-det-logo, det-logo-x, x_det-logo", None),
        ("det logo, det, logo-det", None),
        ("a <cat> and a cat", "a <<cat>:0> and a cat"),
        ("<cat><cat>", "<<cat>:0><<cat>:0>"),
        ("a c++ and a c", "a <c++:0> and a c"),
        ("an a.b, no axb", "an <a.b:0>, no axb"),
        ("my Two Words here", "my <two words:0> <two words:1> here"),
        ("a NAÏVE one", "a <naïve:0> one"),
        ("", None),
    ],
)
def test_a_name_is_expanded_where_it_is_a_word_of_its_own(prompt: str, wanted: str | None) -> None:
    expanded = expand(prompt, NUMBERS)
    assert expanded == (prompt if wanted is None else wanted)
    assert expand(expanded, NUMBERS) == expanded
    assert bool(named(prompt, NUMBERS)) == (wanted is not None)


@pytest.mark.parametrize("prompt", ["a pıcasso", "a pİcasso", "a PICAſſO", "a picaßo"])
def test_no_letter_of_another_alphabet_stops_a_prompt(prompt: str) -> None:
    assert expand(prompt, {"picasso": 1}) in (prompt, "a <picasso:0>")
    assert named(prompt, {"picasso": 1}) <= {"picasso"}


def test_without_concepts_a_prompt_stays_as_it_is() -> None:
    assert expand("a det-logo", {}) == "a det-logo"
    assert named("a det-logo", {}) == set()


def test_a_prompt_names_its_concepts() -> None:
    assert named("Det-Logo-Demo by <cat>, <cat>", NUMBERS) == {"det-logo-demo", "<cat>"}


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def encoder(request: pytest.FixtureRequest, load: Callable[..., StableDiffusion]) -> Any:
    """The last text encoder of each family: (tokenizer, module)."""
    _, tokenizer, module = load(request.param).encoders[-1]
    return tokenizer, module


def width(module: Any) -> int:
    return module.get_input_embeddings().weight.shape[1]


def test_a_concepts_pieces_are_tokens_of_their_own(encoder: Any) -> None:
    tokenizer, module = encoder
    size = len(tokenizer)
    for name, count in NUMBERS.items():
        add_concept(tokenizer, module, name, torch.rand(count, width(module)))
    ids = tokenizer(expand("a det-logo, two words", NUMBERS), add_special_tokens=False).input_ids
    assert [id - size for id in ids if id >= size] == [0, 1, 6, 7]
    assert len(tokenizer) == size + sum(NUMBERS.values())
    for name, count in NUMBERS.items():
        joined = " ".join(pieces(name, count))
        assert len(tokenizer(joined, add_special_tokens=False).input_ids) == count


@pytest.mark.parametrize("name", ["photo", "Photo", "brain", "a"])
def test_a_word_that_the_tokenizer_knows_is_refused(encoder: Any, name: str) -> None:
    tokenizer, module = encoder
    with pytest.raises(ConceptError, match=f"{name} is a word that the tokenizer knows"):
        add_concept(tokenizer, module, name, torch.rand(1, width(module)))
    assert not isinstance(module.get_input_embeddings(), ConceptEmbedding)


def test_a_concept_is_added_once(encoder: Any) -> None:
    tokenizer, module = encoder
    add_concept(tokenizer, module, "det-logo", torch.rand(2, width(module)))
    with pytest.raises(ConceptError, match="choose another"):
        add_concept(tokenizer, module, "det-logo", torch.rand(2, width(module)))


def test_a_name_that_differs_only_in_case_is_refused(encoder: Any) -> None:
    tokenizer, module = encoder
    add_concept(tokenizer, module, "det-logo", torch.rand(2, width(module)))
    with pytest.raises(ConceptError):
        add_concept(tokenizer, module, "Det-Logo", torch.rand(2, width(module)))


def test_vectors_of_another_width_are_refused(encoder: Any) -> None:
    tokenizer, module = encoder
    size = len(tokenizer)
    with pytest.raises(ConceptError, match=f"of width 7, .* takes {width(module)}"):
        add_concept(tokenizer, module, "det-logo", torch.rand(2, 7))
    assert len(tokenizer) == size


@pytest.fixture
def learnt(encoder: Any) -> tuple[ConceptEmbedding, list[torch.nn.Parameter], torch.Tensor]:
    """An embedding with two concepts, their rows, and ids of known words and of both."""
    tokenizer, module = encoder
    first = len(tokenizer)
    names = (("a-b", 2), ("c-d", 3))
    rows = [add_concept(tokenizer, module, n, torch.rand(k, width(module))) for n, k in names]
    table = module.get_input_embeddings()
    assert isinstance(table, ConceptEmbedding)
    return table, rows, torch.tensor([[0, first + 4, 5, first], [first - 1, 1, first + 2, first]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_embedding_is_that_of_a_plain_merged_one(learnt: Any, dtype: torch.dtype) -> None:
    table, rows, ids = learnt
    table.weight.data = table.weight.data.to(dtype)
    merged = table.merged()
    assert type(merged) is torch.nn.Embedding
    assert merged.weight.dtype == table(ids).dtype == dtype
    assert torch.equal(table(ids), merged(ids))
    assert torch.equal(merged.weight[-5:], torch.cat([*rows]).to(dtype))
    assert all(row.dtype == torch.float32 for row in rows)


def test_only_the_rows_that_are_named_get_a_gradient(learnt: Any) -> None:
    table, (first, second), ids = learnt
    assert [p for p in table.parameters() if p.requires_grad] == [first, second]
    table(ids).sum().backward()
    assert table.weight.grad is None
    assert first.grad[:, 0].tolist() == [2, 0]
    assert second.grad[:, 0].tolist() == [1, 0, 1]


def test_a_gradient_passes_a_table_in_half_precision(learnt: Any) -> None:
    table, (first, _), ids = learnt
    table.weight.data = table.weight.data.bfloat16()
    table(ids).float().square().sum().backward()
    assert first.grad.dtype == torch.float32
    assert first.grad[0].abs().sum() > 0


def test_the_rows_are_a_copy_of_the_vectors(encoder: Any) -> None:
    tokenizer, module = encoder
    vectors = torch.rand(2, width(module))
    rows = add_concept(tokenizer, module, "det-logo", vectors)
    assert torch.equal(rows, vectors)
    rows.data.zero_()
    assert vectors.abs().sum() > 0


@pytest.mark.parametrize("count", [None, 1, 2, 7])
def test_a_concept_starts_as_its_initializer_cut_or_repeated(
    encoder: Any, count: int | None
) -> None:
    tokenizer, module = encoder
    ids = tokenizer("a ( c", add_special_tokens=False).input_ids
    assert len(set(ids)) == 3
    table = module.bfloat16().get_input_embeddings().weight
    found = initial_vectors(tokenizer, module, "a ( c", count)
    assert torch.equal(found, table[(ids * 3)[: count or 3]].float())
    found.zero_()
    assert table[ids].abs().sum() > 0


@pytest.mark.parametrize(
    ("words", "num_vectors", "said"),
    [
        ("a " * 70, None, "has 70 tokens, which leaves no room"),
        ("", None, "has no tokens"),
        ("", 3, "has no tokens"),
        ("a", 70, "leaves no room"),
    ],
)
def test_an_initializer_that_does_not_fit_is_refused(
    encoder: Any, words: str, num_vectors: int | None, said: str
) -> None:
    with pytest.raises(ConceptError, match=said):
        initial_vectors(*encoder, words, num_vectors)


def test_a_long_initializer_may_be_cut(encoder: Any) -> None:
    assert initial_vectors(*encoder, "a " * 70, 4).shape[0] == 4
