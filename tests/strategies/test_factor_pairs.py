"""Factors have the requested kind, are exact in their dtype, and do not overflow."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.lora import Factors, format_of
from phi3_lora_qa.strategies import (
    DTYPES,
    FACTOR_KINDS,
    MODERATE_FACTOR_KINDS,
    FactorKind,
    dtypes,
    lora_factors,
    rounded,
)
from tests.strategies.drawing import QUICK, smallest


def is_of_kind(factors: Factors, kind: FactorKind, dtype: str) -> bool:
    A, B = factors.A, factors.B
    least = 2.0 ** format_of(dtype).min_exponent
    match kind:
        case "ordinary":
            return bool(A.any() and B.any())
        case "fresh":
            return bool(A.any() and not B.any())
        case "zero_a":
            return bool(B.any() and not A.any())
        case "degenerate":
            return bool(np.linalg.matrix_rank(A) < len(A) and B.any())
        case "ill_conditioned":
            norms = [np.linalg.norm(A, axis=1), np.linalg.norm(B, axis=0)]
            return len(A) == 1 or all(n.max() > 2.0**5 * n.min() for n in norms)
        case "tiny":
            return bool(least / 2**8 < (np.abs(B) @ np.abs(A)).max() < least * 2**8)
        case "denormal":
            return any(0 < np.abs(factor).max() < least for factor in (A, B))
        case "huge":
            size = (np.abs(B) @ np.abs(A)).max() * max(1.0, factors.scaling)
            return bool(size > format_of(dtype).largest / 2**13)


@pytest.mark.parametrize("kind", FACTOR_KINDS)
@QUICK
@given(data=st.data())
def test_factors_have_the_properties_of_their_kind(kind: FactorKind, data: st.DataObject) -> None:
    dtype = data.draw(dtypes())
    assert is_of_kind(data.draw(lora_factors(dtype=dtype, kinds=[kind])), kind, dtype)


@pytest.mark.parametrize("kind", [kind for kind in FACTOR_KINDS if kind != "ordinary"])
def test_ordinary_factors_do_not_have_another_kind(kind: FactorKind) -> None:
    ordinary = Factors(A=np.array([[1.0, 2.0], [3.0, 4.0]]), B=np.ones((3, 2)), scaling=1.0)
    assert not is_of_kind(ordinary, kind, "float32")


@QUICK
@given(data=st.data())
def test_products_stay_finite_in_the_dtype(data: st.DataObject) -> None:
    dtype = data.draw(dtypes())
    factors = data.draw(lora_factors(dtype=dtype))
    A, B = (torch.from_numpy(f).to(getattr(torch, dtype)) for f in (factors.A, factors.B))
    x = torch.full((1, A.shape[1]), 8.0, dtype=A.dtype)
    for signs in (1, A.sign()[:1]):
        y = (x * signs) @ A.T @ B.T
        assert y.isfinite().all()
        assert (y * factors.scaling).isfinite().all()
    assert ((B @ A) * factors.scaling).isfinite().all()


@QUICK
@given(data=st.data())
def test_values_are_exact_in_the_dtype_and_shapes_are_as_requested(data: st.DataObject) -> None:
    dtype = data.draw(dtypes())
    out_features, in_features = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    rank = data.draw(st.integers(1, 4))
    factors = data.draw(
        lora_factors(
            out_features=out_features,
            in_features=in_features,
            rank=rank,
            dtype=dtype,
            magnitude=True,
            bias=True,
            scaling=0.75,
        )
    )
    assert factors.magnitude is not None
    assert factors.bias is not None
    held = {
        "A": (factors.A, (rank, in_features)),
        "B": (factors.B, (out_features, rank)),
        "magnitude": (factors.magnitude, (out_features,)),
        "bias": (factors.bias, (out_features,)),
    }
    for name, (values, shape) in held.items():
        assert values.shape == shape, name
        np.testing.assert_array_equal(rounded(values, dtype), values, err_msg=name)
    assert (factors.magnitude > 0).all()
    assert factors.scaling == 0.75


@QUICK
@given(lora_factors())
def test_options_are_off_by_default(factors: Factors) -> None:
    assert factors.magnitude is None
    assert factors.bias is None


def test_unspecified_options_are_drawn_both_ways() -> None:
    either = lora_factors(magnitude=None, bias=None)
    assert smallest(either).magnitude is None
    assert smallest(either, lambda f: f.magnitude is not None).bias is None
    assert smallest(either, lambda f: f.bias is not None).magnitude is None


@pytest.mark.parametrize("rslora", [True, False])
def test_scaling_follows_rank_and_rslora(rslora: bool) -> None:
    found = smallest(lora_factors(rank=4, rslora=rslora))
    assert found.scaling == (0.5 if rslora else 0.25)


@pytest.mark.parametrize("dtype", DTYPES)
def test_factors_shrink_to_ones_of_rank_1(dtype: str) -> None:
    found = smallest(lora_factors(dtype=dtype, magnitude=None, bias=None))
    assert found.A.tolist() == found.B.tolist() == [[1]]
    assert (found.scaling, found.magnitude, found.bias) == (1, None, None)


def test_a_failure_shrinks_to_the_least_rank_and_width_that_show_it() -> None:
    found = smallest(lora_factors(), lambda factors: len(factors.A) > 1)
    assert found.A.tolist() == [[1, 1], [1, 1]]
    assert found.B.tolist() == [[1, 1], [1, 1]]


def test_moderate_kinds_are_a_subset_of_all_kinds() -> None:
    assert set(MODERATE_FACTOR_KINDS) == set(FACTOR_KINDS) - {"tiny", "denormal", "huge"}


@QUICK
@given(data=st.data())
def test_the_squares_of_doras_rows_fit_float32(data: st.DataObject) -> None:
    f = data.draw(lora_factors(dtype=data.draw(dtypes()), kinds=["huge"], magnitude=True))
    squares = ((abs(f.scaling) * np.abs(f.B) @ np.abs(f.A)) ** 2).sum(axis=1)
    assert squares.max() < format_of("float32").largest
