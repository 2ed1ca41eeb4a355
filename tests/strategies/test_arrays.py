"""Arrays are exact in their dtype, have the requested fill, and shrink to ones."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.strategies import (
    DTYPES,
    FILLS,
    Fill,
    alphas,
    arrays,
    dtypes,
    ranks,
    rounded,
    shapes,
)
from tests.strategies.drawing import QUICK, smallest

FIRST_BEYOND = {"float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}
"""The smallest positive number of each dtype."""


def test_dtypes_shapes_ranks_and_alphas_shrink_to_the_simplest() -> None:
    assert smallest(dtypes()) == "float32"
    assert smallest(shapes()) == (1, 1)
    assert smallest(ranks(5, 7)) == 1
    assert smallest(alphas(zero=True, negative=True)) == 1


@QUICK
@given(st.data())
def test_a_rank_does_not_exceed_the_sides_of_the_weight(data: st.DataObject) -> None:
    out_features, in_features = data.draw(shapes(max_side=12))
    assert out_features <= 12 >= in_features
    assert (
        1
        <= data.draw(ranks(out_features, in_features, max_rank=6))
        <= min(out_features, in_features, 6)
    )


@QUICK
@given(alphas(largest=16))
def test_an_alpha_is_positive_and_bounded_by_default(alpha: float) -> None:
    assert 0 < alpha <= 16


def test_an_alpha_may_be_zero_fractional_or_negative_on_request() -> None:
    assert smallest(alphas(zero=True), lambda alpha: alpha == 0) == 0
    assert smallest(alphas(negative=True), lambda alpha: alpha < 0) == -1
    assert smallest(alphas(negative=True)) == smallest(alphas(zero=True)) == 1
    assert smallest(alphas(), lambda alpha: alpha % 1 != 0) % 1 != 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_matches_torch_also_at_ties_and_for_subnormals(dtype: str) -> None:
    rng = np.random.default_rng(5)
    scales = 2.0 ** rng.integers(-30, 15, 4000)
    values = (rng.standard_normal(4000) * scales).astype(np.float32).astype(np.float64)
    ties = 1 + np.arange(64) * 2.0**-12
    least = FIRST_BEYOND[dtype] * np.array([0.25, 0.5, 0.75, 1, 1.5, 2.5, 1000.5])
    everything = np.concatenate([values, ties, least])
    expected = torch.from_numpy(everything).to(torch.float32).to(getattr(torch, dtype)).double()
    np.testing.assert_array_equal(rounded(everything, dtype), expected.numpy())


def test_rounding_to_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown dtype: 'int8'; use one of float32, bfloat"):
        rounded(np.ones(1), "int8")


@QUICK
@given(st.data(), dtypes())
def test_an_array_has_its_shape_and_small_values_of_its_dtype(
    data: st.DataObject, dtype: str
) -> None:
    shape = data.draw(shapes())
    values = data.draw(arrays(shape, dtype=dtype))
    assert values.shape == shape
    assert values.dtype == np.float64
    assert np.abs(values).max() <= 8
    np.testing.assert_array_equal(rounded(values, dtype), values)


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_has_the_values_of_its_name(fill: Fill) -> None:
    values = smallest(
        arrays((40, 50), fills=(fill,)), lambda v: fill in ("ones", "zeros") or v.any()
    )
    sizes = np.abs(values[values != 0])
    match fill:
        case "ones":
            assert (values == 1).all()
        case "zeros":
            assert not values.any()
        case "integers":
            assert set(np.unique(values)) == {-3, -2, -1, 0, 1, 2, 3}
        case "normal":
            assert abs(values.mean()) < 0.1
            assert 0.9 < values.std() < 1.1
        case "wide":
            assert sizes.max() > 1
            assert np.median(sizes) < 2.0**-4


def test_an_array_shrinks_to_ones_except_where_the_failure_needs_other_values() -> None:
    np.testing.assert_array_equal(smallest(arrays((2, 3))), np.ones((2, 3)))
    found = smallest(arrays((2, 3)), lambda values: (values < 0).any())
    np.testing.assert_array_equal(found, np.round(found))
