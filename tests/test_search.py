"""Determined's rules: of a grid, which the master's own code was run against, and of draws."""

from typing import Any

import pytest

from detsd.config import ConfigError
from detsd.search import draw_point, expand_grid, searched, trials_in_order
from tests.cluster.points import points as points_of_the_master

SPACE = {
    "training": {
        "learning_rate": {"type": "log", "base": 10, "minval": -4, "maxval": -2},
        "embedding_norm": {"type": "categorical", "vals": ["free", "vocabulary"]},
        "num_sgd_steps": 6,
    },
    "concepts": {
        "num_vectors": {"type": "int", "minval": 1, "maxval": 4},
        "flip_p": {"type": "double", "minval": 0.25, "maxval": 0.5},
        "img_dirs": ["a", "b"],
        "interpolation": {"type": "const", "val": "bicubic"},
    },
}


def values(**parameter: Any) -> list[Any]:
    return [point["a"] for point in expand_grid({"a": parameter})]


@pytest.mark.parametrize(
    ("low", "high", "count", "wanted"),
    [
        (0, 10, 3, [0, 5, 10]),
        (0, 5, 3, [0, 3, 5]),  # 2.5 goes away from zero, where Python would go to 2
        (1, 4, 3, [1, 3, 4]),
        (-5, 0, 3, [-5, -3, 0]),
        (1, 3, 10, [1, 2, 3]),  # no more values than there are
        (0, 1, 1, [1]),
        (0, 5, 1, [3]),
        (-5, 0, 1, [-3]),
        (0, 9, 4, [0, 3, 6, 9]),
    ],
)
def test_ints_are_spread_evenly(low: int, high: int, count: int, wanted: list[int]) -> None:
    found = values(type="int", minval=low, maxval=high, count=count)
    assert found == wanted
    assert {type(value) for value in found} == {int}


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, [0.5]), (2, [0.0, 1.0]), (5, [0, 0.25, 0.5, 0.75, 1])]
)
def test_doubles_are_spread_evenly(count: int, wanted: list[float]) -> None:
    assert values(type="double", minval=0.0, maxval=1.0, count=count) == wanted


@pytest.mark.parametrize(
    ("base", "count", "wanted"),
    [
        ({}, 3, [1e-4, 1e-3, 1e-2]),
        ({"base": 10.0}, 1, [1e-3]),
        ({"base": 2}, 2, [2**-4, 2**-2]),
    ],
)
def test_logs_are_spread_evenly_over_the_exponents(
    base: dict[str, Any], count: int, wanted: list[float]
) -> None:
    found = values(type="log", minval=-4, maxval=-2, count=count, **base)
    assert found == pytest.approx(wanted, rel=1e-12)


def test_the_first_axis_by_name_is_the_slowest() -> None:
    points = expand_grid(
        {
            "b": {"type": "categorical", "vals": [3, 1]},
            "B": {"type": "int", "minval": 1, "maxval": 2, "count": 2},  # bytes: before any small
            "a": "x",
        }
    )
    assert points == [{"B": first, "a": "x", "b": second} for first in (1, 2) for second in (3, 1)]


def test_axes_may_be_nested() -> None:
    vals = {"type": "categorical", "vals": ["p", "q"]}
    points = expand_grid({"z": 1, "m": {"n": {"o": vals, "k": 2}}, "e": {}})
    assert points == [{"z": 1, "m": {"n": {"o": value, "k": 2}}, "e": {}} for value in "pq"]


@pytest.mark.parametrize(
    "value",
    [
        1,
        None,
        "text",
        [],
        {},
        [{"type": "int", "minval": 1, "maxval": 2, "count": 2}],
        {"nested": {"deeper": {}}},
    ],
    ids=str,
)
def test_lists_scalars_and_empty_mappings_are_one_value(value: Any) -> None:
    assert expand_grid({"a": value}) == [{"a": value}]


@pytest.mark.parametrize("value", [3, None, [1, 2], {"b": 1}], ids=str)
def test_a_const_is_its_value(value: Any) -> None:
    assert values(type="const", val=value) == [value]


def test_without_hyperparameters_there_is_no_trial() -> None:
    assert expand_grid({}) == []
    assert trials_in_order({}, "grid") == []


# Of the earlier example's generate_grid.yaml, which the master has expanded itself; in their order.
EARLIER = """
6 4 214748367  6 4 14748367  6 3 214748367  6 3 14748367
6 2 214748367  6 2 14748367  6 1 214748367  6 1 14748367
4 4 214748367  4 4 14748367  4 3 214748367  4 3 14748367
4 2 214748367  4 2 14748367  4 1 214748367  4 1 14748367
2 4 214748367  2 4 14748367  2 3 214748367  2 3 14748367
2 2 214748367  2 2 14748367  2 1 214748367  2 1 14748367
"""


# The bundle's rules, and the stand-in master's: each is written after the master's own.
@pytest.mark.parametrize("expand", [trials_in_order, points_of_the_master])
def test_the_earlier_examples_grid_has_24_trials_from_the_end(expand: Any) -> None:
    seeds = {"type": "int", "minval": 14748367, "maxval": 214748367, "count": 2}
    prompts = ["a Van Gogh painting", "a watercolor painting", "Beautiful tarot", "Futuristic"]
    call = {
        "prompt": {"type": "categorical", "vals": prompts},
        "num_inference_steps": 50,
        "guidance_scale": {"type": "double", "minval": 2, "maxval": 6, "count": 3},
    }
    hparams = {
        "batch_size": 2,
        "main_process_generator_seed": seeds,
        "pipeline": {"other_scheduler_kwargs": {}, "use_fp16": True},
        "uuids": [],
        "call_kwargs": call,
    }
    numbers = [int(number) for number in EARLIER.split()]
    assert expand(hparams, "grid") == [
        {
            "batch_size": 2,
            "call_kwargs": {
                "guidance_scale": scale,
                "num_inference_steps": 50,
                "prompt": prompts[prompt - 1],
            },
            "main_process_generator_seed": seed,
            "pipeline": {"other_scheduler_kwargs": {}, "use_fp16": True},
            "uuids": [],
        }
        for scale, prompt, seed in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    ]


@pytest.mark.parametrize("expand", [trials_in_order, points_of_the_master])
def test_a_whole_grid(expand: Any) -> None:
    hparams = {
        "z": {"type": "int", "minval": -5, "maxval": 0, "count": 3},
        "Z": {"type": "log", "base": 10, "minval": -2, "maxval": 0, "count": 2},
        "m": {"type": "int", "minval": 0, "maxval": 5, "count": 1},
        "n": {"type": "int", "minval": 7, "maxval": 8, "count": 9},
        "k": {"type": "const", "val": [1, 2]},
        "none": {},
    }
    fixed = {"m": 3, "k": [1, 2], "none": {}}
    assert expand(hparams, "grid") == [
        {"Z": 1, "n": 8, "z": 0, **fixed},
        {"Z": 1, "n": 8, "z": -3, **fixed},
        {"Z": 1, "n": 8, "z": -5, **fixed},
        {"Z": 1, "n": 7, "z": 0, **fixed},
        {"Z": 1, "n": 7, "z": -3, **fixed},
        {"Z": 1, "n": 7, "z": -5, **fixed},
        {"Z": 0.01, "n": 8, "z": 0, **fixed},
        {"Z": 0.01, "n": 8, "z": -3, **fixed},
        {"Z": 0.01, "n": 8, "z": -5, **fixed},
        {"Z": 0.01, "n": 7, "z": 0, **fixed},
        {"Z": 0.01, "n": 7, "z": -3, **fixed},
        {"Z": 0.01, "n": 7, "z": -5, **fixed},
    ]
    assert expand({}, "grid") == []
    assert expand({}, "single") == [{}]


@pytest.mark.parametrize(
    ("parameter", "named"),
    [
        ({"type": "int", "minval": 1, "maxval": 2}, "hyperparameters.x.a.count: missing"),
        ({"type": "double", "minval": 1, "count": 2}, "hyperparameters.x.a.maxval: missing"),
        ({"type": "int", "minval": "1", "maxval": 2, "count": 2}, "hyperparameters.x.a.minval: "),
        ({"type": "int", "minval": 2, "maxval": 1, "count": 2}, "hyperparameters.x.a: minval"),
        ({"type": "int", "minval": 1, "maxval": 2, "count": 0}, "hyperparameters.x.a: "),
        ({"type": "log", "minval": 1, "maxval": True, "count": 1}, "hyperparameters.x.a.maxval: "),
        ({"type": "categorical"}, "hyperparameters.x.a.vals: missing"),
        ({"type": "categorical", "vals": []}, "hyperparameters.x.a.vals: "),
        ({"type": "categorical", "vals": "ab"}, "hyperparameters.x.a.vals: "),
        ({"type": "integer"}, "hyperparameters.x.a.type: one of const, categorical"),
        ({"type": ["int"]}, "hyperparameters.x.a.type: "),
        ({"type": "log", "minval": 1, "maxval": 2, "count": 1, "base": "e"}, "x.a.base: "),
        ({"type": "log", "minval": 1, "maxval": 2, "count": 1, "base": -1}, "x.a.base: "),
        ({"type": "int", "minval": 1.5, "maxval": 4, "count": 1}, "x.a: whole numbers"),
        ({"type": "double", "minval": 1, "maxval": float("inf"), "count": 1}, "x.a.maxval: "),
    ],
)
def test_a_broken_range_is_refused_by_name(parameter: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand_grid({"x": {"a": parameter}})
    assert named in str(caught.value)


def test_a_single_search_has_one_point_and_draws_none() -> None:
    point = {"a": {"type": "const", "val": 1}, "b": {"type": "categorical", "vals": [2]}}
    assert trials_in_order(point, "single") == [{"a": 1, "b": 2}]
    drawn = {"x": {"a": {"type": "categorical", "vals": [1, 2]}}}
    with pytest.raises(ConfigError, match=r"hyperparameters\.x\.a: searcher `single`"):
        trials_in_order(drawn, "single")


def test_a_drawn_point_is_of_the_space_and_every_choice_comes_up() -> None:
    points = [draw_point(SPACE, trial, seed=0) for trial in range(1, 401)]
    for point in points:
        assert point["training"]["num_sgd_steps"] == 6
        assert point["concepts"]["img_dirs"] == ["a", "b"]
        assert point["concepts"]["interpolation"] == "bicubic"
    assert {point["training"]["embedding_norm"] for point in points} == {"free", "vocabulary"}
    vectors = [point["concepts"]["num_vectors"] for point in points]
    assert set(vectors) == {1, 2, 3, 4}  # maxval is one of them
    assert {type(value) for value in vectors} == {int}
    shares = sorted(point["concepts"]["flip_p"] for point in points)
    assert 0.25 <= shares[0] < 0.26
    assert 0.49 < shares[-1] < 0.5
    rates = sorted(point["training"]["learning_rate"] for point in points)
    assert 1e-4 <= rates[0] < 1.2e-4
    assert 0.9e-2 < rates[-1] < 1e-2
    assert 0.8e-3 < rates[200] < 1.25e-3  # even over the exponents


def test_a_draw_follows_from_the_seed_the_trial_and_the_name_alone() -> None:
    point = draw_point(SPACE, 7, seed=0)
    assert point == draw_point(SPACE, 7, seed=0)
    # Written down, so that a later version goes on with a search that this one has begun.
    assert point["concepts"]["num_vectors"] == 4
    assert point["training"]["learning_rate"] == pytest.approx(0.00019274372770340328, rel=1e-12)
    rate = SPACE["training"]["learning_rate"]
    alone = draw_point({"training": {"learning_rate": rate}}, 7, seed=0)
    assert alone["training"]["learning_rate"] == point["training"]["learning_rate"]
    for other in (draw_point(SPACE, 8, seed=0), draw_point(SPACE, 7, seed=1)):
        assert other["training"]["learning_rate"] != point["training"]["learning_rate"]
    twice = draw_point({"a": rate, "b": rate}, 7, seed=0)
    assert twice["a"] != twice["b"]


@pytest.mark.parametrize(
    ("parameter", "named"),
    [
        ({"type": "int", "minval": 3, "maxval": 3}, "hyperparameters.x.a: minval < maxval"),
        ({"type": "log", "maxval": 3}, "hyperparameters.x.a.minval: missing"),
        ({"type": "log", "minval": 1, "maxval": 999}, "hyperparameters.x.a: 10 to the power"),
        ({"type": "categorical", "vals": []}, "hyperparameters.x.a.vals: "),
        ({"type": "uniform"}, "hyperparameters.x.a.type: one of const, categorical"),
    ],
)
def test_a_range_that_cannot_be_drawn_from_is_refused_by_name(
    parameter: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        for trial in range(50):
            draw_point({"x": {"a": parameter}}, trial, seed=0)
    assert named in str(caught.value)


def test_what_is_searched_is_what_has_a_choice() -> None:
    one = {"type": "categorical", "vals": [1]}
    assert searched({**SPACE, "z": one}) == [
        "concepts.flip_p",
        "concepts.num_vectors",
        "training.embedding_norm",
        "training.learning_rate",
    ]
    assert searched({}) == []
