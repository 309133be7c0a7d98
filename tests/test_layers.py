"""A layer's numbers are numbers, and its alpha is one in float32."""

import pytest
import torch

from detsd.layers import Layer, checked_alpha, layer_of, unfolded

GIVEN = {"down": torch.ones(2, 6), "up": torch.ones(8, 2), "magnitude": torch.ones(8)}


@pytest.mark.parametrize("role", GIVEN)
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_numbers_that_are_none_are_refused(role, odd):
    tensor = GIVEN[role].double()
    tensor.view(-1)[1] = odd  # 1e300 is infinite in float32
    assert layer_of(GIVEN).magnitude is not None
    with pytest.raises(ValueError, match=r"numbers that are none \(inf or nan\)"):
        layer_of({**GIVEN, role: tensor})


def test_an_alpha_that_leaves_no_numbers_is_refused():
    layer = Layer(torch.ones(2, 6), torch.full((8, 2), 1e30), 2.0)
    assert torch.equal(unfolded(layer, 1.0).up, layer.up * 2)
    with pytest.raises(ValueError, match="numbers that are none"):
        unfolded(layer, 1e-20)


@pytest.mark.parametrize("alpha", [10**400, -(10**400), 1e39, 1e-46, 0, True, "2", None, [2]])
def test_an_alpha_is_a_number_in_float32(alpha):
    with pytest.raises(ValueError, match="a number is wanted for alpha, found"):
        checked_alpha(alpha)
