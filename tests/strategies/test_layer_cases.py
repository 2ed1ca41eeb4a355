"""Cases are consistent, exact in their dtype, and shrink to ones."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.lora import (
    Factors,
    delta,
    forward_bound,
    gradient_bound,
    merge_bound,
    scaling_of,
)
from phi3_lora_qa.strategies import (
    ConvCase,
    EmbeddingCase,
    LayerCase,
    MergedLinearCase,
    conv_cases,
    embedding_cases,
    linear_cases,
    merged_linear_cases,
    rounded,
)
from tests.strategies.drawing import QUICK, smallest

ANY_CASE = st.one_of(
    linear_cases(magnitude=None, bias=None),
    embedding_cases(),
    conv_cases(dims=1, groups=True),
    conv_cases(),
    conv_cases(dims=3, max_kernel=2),
    merged_linear_cases(),
)
Case = LayerCase | EmbeddingCase | ConvCase | MergedLinearCase
NAMES = {
    case.__name__: case for case in (LayerCase, EmbeddingCase, ConvCase, MergedLinearCase, Factors)
}


def arrays_in(value: object) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Case | Factors):
        return [found for f in fields(value) for found in arrays_in(getattr(value, f.name))]
    return []


@QUICK
@given(ANY_CASE)
def test_loading_a_case_in_its_dtype_changes_nothing(case: Case) -> None:
    for values in arrays_in(case):
        if values.dtype == np.float64:
            np.testing.assert_array_equal(rounded(values, case.dtype), values)


@QUICK
@given(ANY_CASE)
def test_a_case_is_shown_in_a_few_lines(case: Case) -> None:
    assert len(repr(case)) < 4000


def same(one: object, other: object) -> bool:
    if isinstance(one, Case | Factors):
        return type(one) is type(other) and all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)
        )
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return one == other


@QUICK
@given(
    linear_cases(magnitude=None, bias=None, max_side=4)
    | embedding_cases(max_side=4)
    | conv_cases(max_channels=2, max_kernel=1)
    | merged_linear_cases(max_side=2, max_rank=2)
)
def test_a_small_case_can_be_copied_from_a_failure(case: Case) -> None:
    text = repr(case)
    if "<array" not in text:
        assert same(eval(text, NAMES | {"array": np.array}), case)


@QUICK
@given(linear_cases(magnitude=None, bias=None, max_side=10, max_rank=3))
def test_a_linear_case_fits_together(case: LayerCase) -> None:
    out_features, in_features = case.weight.shape
    rank = case.factors.rank
    assert out_features <= 10 >= in_features
    assert rank <= min(3, out_features, in_features)
    assert case.factors.A.shape == (rank, in_features)
    assert case.factors.B.shape == (out_features, rank)
    assert case.x.shape[1:] == (in_features,)
    assert case.factors.scaling == scaling_of(case.alpha, rank, rslora=case.rslora)
    for vector in (case.base_bias, case.factors.bias, case.factors.magnitude):
        assert vector is None or vector.shape == (out_features,)
    assert case.factors.bias is None or case.base_bias is not None


@QUICK
@given(linear_cases(magnitude=True))
def test_dora_keeps_a_direction_in_each_row(case: LayerCase) -> None:
    change = delta(case.factors)
    left, *sides = (
        np.linalg.norm(rows, axis=1) for rows in (case.weight + change, case.weight, change)
    )
    assert (left > 0).all()
    assert (left >= 0.25 * (sides[0] + sides[1])).all()


@QUICK
@given(linear_cases(kinds=["huge"], magnitude=True))
def test_huge_factors_under_dora_leave_something_to_compare(case: LayerCase) -> None:
    """Norms whose squares overflow would have infinite bounds, and every property would hold."""
    given = case.weight, case.factors
    gradients = gradient_bound(*given, case.x, np.ones((len(case.x), len(case.weight))), case.dtype)
    found = [merge_bound(*given, case.dtype), forward_bound(*given, case.x, case.dtype)]
    for bound in (*found, gradients.A, gradients.B, gradients.magnitude):
        assert bound is not None
        assert np.isfinite(bound).all()


@QUICK
@given(linear_cases(rslora=True, base_bias=False) | linear_cases(rslora=False, base_bias=True))
def test_scaling_and_bias_are_as_requested(case: LayerCase) -> None:
    assert case.rslora is (case.base_bias is None)


def test_a_bias_of_b_comes_with_a_bias_of_the_base() -> None:
    assert smallest(linear_cases(bias=True, base_bias=False)).base_bias is not None


@pytest.mark.slow
def test_without_dora_a_row_may_cancel() -> None:
    found = smallest(
        linear_cases(max_side=2, kinds=["ordinary"]),
        lambda case: not (case.weight + delta(case.factors)).any(axis=1).all(),
    )
    assert found.weight.size <= 2


@QUICK
@given(embedding_cases(max_side=10))
def test_an_embedding_case_fits_together(case: EmbeddingCase) -> None:
    num, dim = case.table.shape
    rank = len(case.A)
    assert case.A.shape == (rank, num)
    assert case.B.shape == (dim, rank)
    assert case.scaling == scaling_of(case.alpha, rank, rslora=case.rslora)
    assert case.ids.ndim == 2
    assert case.ids.dtype == np.int64
    assert case.ids.min() >= 0
    assert case.ids.max() < num


@pytest.mark.parametrize("dims", [1, 2, 3])
@QUICK
@given(data=st.data())
def test_a_conv_case_runs_as_pefts_two_convolutions(dims: int, data: st.DataObject) -> None:
    case = data.draw(conv_cases(dims=dims, groups=True, max_kernel=2))
    conv: Any = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[dims]
    x, weight, A, B = map(torch.from_numpy, (case.x, case.weight, case.A, case.B))
    where = {"stride": case.stride, "padding": case.padding}
    base = conv(x, weight, groups=case.groups, **where)
    added = conv(conv(x, A, **where), B, groups=case.groups)
    assert base.shape == added.shape
    assert base.numel() > 0
    assert case.base_bias is None or len(case.base_bias) == base.shape[1]


@QUICK
@given(merged_linear_cases(max_side=6, max_rank=3, max_blocks=3))
def test_a_merged_linear_case_fits_together(case: MergedLinearCase) -> None:
    blocks, enabled = len(case.enable_lora), sum(case.enable_lora)
    out_features, in_features = case.weight.shape
    assert 1 <= enabled <= blocks <= 3
    assert out_features % blocks == 0
    assert case.A.shape == (case.rank * enabled, in_features)
    assert case.B.shape == (out_features // blocks * enabled, case.rank)
    assert case.scaling == case.alpha / case.rank


@pytest.mark.slow
def test_masks_may_disable_blocks() -> None:
    found = smallest(merged_linear_cases(max_side=1), lambda case: not all(case.enable_lora))
    assert sorted(found.enable_lora) == [False, True]
    assert (
        smallest(
            merged_linear_cases(max_side=1), lambda case: sum(case.enable_lora) > 2
        ).enable_lora
        == (True,) * 3
    )


@pytest.mark.parametrize(
    "strategy",
    [
        linear_cases(magnitude=None, bias=None),
        embedding_cases(),
        conv_cases(groups=True),
        merged_linear_cases(),
    ],
    ids=["linear", "embedding", "conv", "merged linear"],
)
def test_a_case_shrinks_to_ones_without_options(strategy: st.SearchStrategy[Case]) -> None:
    found = smallest(strategy)
    assert found.dtype == "float32"
    assert found.alpha == 1
    assert getattr(found, "base_bias", None) is None
    assert not getattr(found, "rslora", False)
    for values in arrays_in(found):
        assert values.size == 1
        assert values.item() == (0 if values.dtype == np.int64 else 1)


def test_a_failure_of_one_option_shrinks_to_that_option_alone() -> None:
    found = smallest(
        linear_cases(magnitude=None, bias=None), lambda case: case.factors.magnitude is not None
    )
    assert found.factors.bias is None
    assert found.weight.tolist() == found.x.tolist() == [[1]]
    wide = smallest(linear_cases(), lambda case: case.weight.shape[0] > case.weight.shape[1])
    assert wide.weight.tolist() == [[1], [1]]
