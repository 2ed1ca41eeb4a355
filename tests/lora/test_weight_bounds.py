"""Bounds on weights, computed by hand; test_oracles.py tests that they are valid and tight."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Arithmetic, Factors
from tests.lora.drawing import CASES, cases

V, U, H = 2.0**-53, 2.0**-24, 2.0**-11
TINY, SUB = 2.0**-126, 2.0**-25
ONE = U / (1 - U) + V / (1 - V)
F = Factors(A=np.array([[5.0]]), B=np.array([[7.0]]), scaling=3.0)
W = np.array([[2.0]])
SINGLE = 3 * 35 * ONE + (105 + 3 * 35 * ONE) * (U + V)
"""The bound of F's delta in float32, without underflow."""


def only(bound: np.ndarray) -> float:
    assert bound.shape == (1, 1)
    return float(bound[0, 0])


def half(value: float) -> float:
    """Return the bound of one rounding to float16."""
    return value * (H + V) + SUB


def dora_gain(magnitude: float) -> float:
    """Return the bound of m / ‖W + delta‖ in float32."""
    e = SINGLE + (107 + SINGLE) * (U + V)
    norm = e + ((1 - np.sqrt(1 - ONE)) * (1 + U) + U) * (107 + e)
    gain = (magnitude / 107 * norm) / (107 - norm)
    return float(gain + (magnitude / 107 + gain) * (U + V))


def test_delta_costs_the_product_and_the_scaling() -> None:
    assert only(lora.delta_bound(F, "float32")) == pytest.approx(SINGLE, rel=1e-12, abs=0)
    inner = 35 * ONE
    stored = inner + half(35 + inner)
    expected = 3 * stored + half(105 + 3 * stored)
    assert only(lora.delta_bound(F, "float16")) == pytest.approx(expected, rel=1e-12, abs=0)


def test_a_delta_of_zeros_is_exact() -> None:
    fresh = replace(F, B=np.zeros((1, 1)))
    for dtype in ("float32", "bfloat16", "float16", "float64"):
        assert only(lora.delta_bound(fresh, dtype)) == 0.0
        assert only(lora.merge_bound(W, fresh, dtype)) == 0.0
        assert only(lora.unmerge_bound(W, fresh, dtype)) == 0.0
        assert only(lora.extraction_bound(W, fresh, dtype)) == 0.0


def test_merging_adds_one_rounding_of_the_sum() -> None:
    expected = SINGLE + (107 + SINGLE) * (U + V)
    assert only(lora.merge_bound(W, F, "float32")) == pytest.approx(expected, rel=1e-12, abs=0)


def test_dora_adds_the_norm_the_quotient_and_the_product() -> None:
    f = replace(F, magnitude=np.array([4.0]))
    e, gain = SINGLE + (107 + SINGLE) * (U + V), dora_gain(4.0)
    carried = 4 / 107 * e + gain * (107 + e)
    expected = carried + (4 + carried) * (U + V)
    assert only(lora.merge_bound(W, f, "float32")) == pytest.approx(expected, rel=1e-9, abs=0)


def test_dora_has_no_bound_where_a_row_may_vanish() -> None:
    f = replace(F, magnitude=np.array([4.0]))
    assert only(lora.merge_bound(np.array([[-105.0]]), f, "float32")) == np.inf
    assert only(lora.unmerge_bound(np.array([[-105.0]]), f, "float32")) == np.inf


def test_unmerging_costs_two_roundings_and_not_the_deltas_own_error() -> None:
    first = (107 + SINGLE) * (U + V)
    expected = first + (2 + first) * (U + V)
    found = only(lora.unmerge_bound(W, F, "float32"))
    assert found == pytest.approx(expected, rel=1e-12, abs=0)
    assert found < SINGLE
    assert only(lora.unmerge_bound(-W, replace(F, scaling=-3.0), "float32")) == found
    negative = only(lora.unmerge_bound(np.array([[-200.0]]), F, "float32"))  # the sum is -95
    assert negative == pytest.approx((95 + 200) * (U + V), rel=1e-6)
    small = replace(F, scaling=2.0**-20)
    assert only(lora.unmerge_bound(W, small, "float32")) == pytest.approx(4 * U, rel=1e-4)


def test_mixed_dtypes_may_round_the_delta_again_before_it_is_subtracted() -> None:
    first = (107 + SINGLE) * (U + V) + (105 + SINGLE) * (U + V)
    expected = first + (2 + first) * (U + V)
    mixed = Arithmetic(dtype="float32", mixed=True)
    assert only(lora.unmerge_bound(W, F, mixed)) == pytest.approx(expected, rel=1e-12, abs=0)


def test_unmerging_dora_costs_the_product_and_the_division_as_well() -> None:
    f = replace(F, magnitude=np.array([4.0]))
    # The sum, g·V and back, the quotient, the difference; and nothing for D, g and N as such.
    share, gain = U + V, dora_gain(4.0)
    first = (107 + SINGLE) * share
    max_abs = 107 + SINGLE + first
    back = (4 / 107 + gain) * max_abs * share / (4 / 107 - gain)
    kept = first + back + (max_abs + back) * share
    expected = kept + (2 + kept) * share
    assert only(lora.unmerge_bound(W, f, "float32")) == pytest.approx(expected, rel=1e-10, abs=0)
    mirrored = replace(f, magnitude=np.array([-4.0]))
    assert only(lora.unmerge_bound(W, mirrored, "float32")) == pytest.approx(expected, rel=1e-10)
    assert only(lora.unmerge_bound(W, replace(f, magnitude=np.zeros(1)), "float32")) == np.inf


def test_cycles_after_the_first_cost_nothing() -> None:
    once = only(lora.unmerge_bound(W, F, "bfloat16"))
    assert only(lora.merge_cycles_bound(W, F, "bfloat16", 0)) == 0.0
    assert only(lora.merge_cycles_bound(W, F, "bfloat16", 1)) == once
    assert only(lora.merge_cycles_bound(W, F, "bfloat16", 1000)) == once


@pytest.mark.parametrize("kind", ["mixed", "dora"])
def test_every_cycle_counts_if_ties_to_even_do_not_help(kind: str) -> None:
    arithmetic = Arithmetic(dtype="float32", mixed=kind == "mixed")
    f = F if kind == "mixed" else replace(F, magnitude=np.array([4.0]))
    once, thrice = (only(lora.merge_cycles_bound(W, f, arithmetic, n)) for n in (1, 3))
    assert once == only(lora.unmerge_bound(W, f, arithmetic))
    assert 3 * once < thrice < 3.001 * once


def test_a_second_cycle_never_changes_the_result_of_the_first() -> None:
    """Test Reiser and Knuth's theorem on a million sums in float32 and in float16."""
    rng = np.random.default_rng(0)
    kinds: tuple[Any, ...] = (np.float32, np.float16)
    for kind in kinds:
        w, d = (rng.standard_normal(10**6) * 2.0 ** rng.integers(-6, 6, 10**6) for _ in range(2))
        start, step = w.astype(kind), d.astype(kind)
        once = (start + step) - step
        assert (once != start).mean() > 0.1
        assert np.array_equal((once + step) - step, once)


def test_extraction_adds_the_rounding_of_the_difference() -> None:
    merge = SINGLE + (107 + SINGLE) * (U + V)
    expected = merge + (105 + merge) * (U + V)
    assert only(lora.extraction_bound(W, F, "float32")) == pytest.approx(expected, rel=1e-12, abs=0)


def test_factorization_is_within_twice_the_norm_of_the_extraction_error() -> None:
    bound = lora.extraction_bound(np.ones((1, 2)), replace(F, A=np.array([[5.0, 1.0]])), "float16")
    found = lora.factorization_bound(
        np.ones((1, 2)), replace(F, A=np.array([[5.0, 1.0]])), "float16"
    )
    assert found == pytest.approx(2 * float(np.sqrt((bound**2).sum())), rel=2e-15, abs=0)


def test_factors_from_a_merged_checkpoint_are_within_their_bound_and_it_is_tight() -> None:
    looseness = []
    for dtype in ("float32", "bfloat16", "float16"):
        for _, case in cases(dtype, seed=50):
            f, w = case.factors, case.weight
            merged = lora.round_to(w + lora.round_to(lora.delta(f), dtype), dtype)
            best = lora.factorize(lora.round_to(merged - w, dtype), f.rank)
            error = float(np.linalg.norm(lora.delta(best.factors) - lora.delta(f)))
            bound = lora.factorization_bound(w, f, dtype)
            assert error <= bound * (1 + 2.0**-20) + 2.0**-40 * np.linalg.norm(lora.delta(f))
            looseness.append(bound / error if error > 0 else 1.0 if bound == 0 else np.inf)
    assert len(looseness) >= 3 * CASES
    assert np.median(looseness) < 100


def test_there_is_no_bound_if_float16_overflows() -> None:
    wide = replace(F, A=np.array([[300.0]]), B=np.array([[300.0]]))
    assert only(lora.delta_bound(wide, "float16")) == np.inf
    assert np.isfinite(only(lora.delta_bound(wide, "bfloat16")))
    assert only(lora.merge_bound(np.array([[65504.0]]), F, "float16")) == np.inf


def test_nan_gives_an_infinite_bound() -> None:
    assert only(lora.delta_bound(replace(F, A=np.array([[np.nan]])), "float32")) == np.inf


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_worst_case_bound_is_valid_and_tight_if_every_partial_sum_is_rounded(
    dtype: str,
) -> None:
    worst, looseness = Arithmetic(dtype=dtype, accumulate=dtype), []
    for _, case in cases(dtype, seed=51, count=1000):
        f = case.factors
        product = np.zeros((len(f.B), f.A.shape[1]))
        for k in range(f.rank):
            term = lora.round_to(np.outer(f.B[:, k], f.A[k]), dtype)
            product = lora.round_to(product + term, dtype)
        scaling = float(lora.round_to(np.array(f.scaling), dtype))
        error = np.abs(lora.round_to(scaling * product, dtype) - lora.delta(f))
        bound = lora.delta_bound(f, worst)
        finite = np.isfinite(bound)
        assert np.all(error[finite] <= bound[finite])
        if finite.any() and bound.any():
            largest = float(lora.ratios(error[finite], bound[finite]).max())
            looseness.append(1 / largest if largest else np.inf)
    assert len(looseness) > 800
    assert np.median(looseness) < 100


def test_float64_is_compared_with_float64() -> None:
    for rng, case in cases("float32", seed=52, count=1000):
        f, order = case.factors, rng.permutation(case.factors.rank)
        another_order = (f.B[:, order] @ f.A[order]) * f.scaling
        exact = (f.B.astype(np.longdouble) @ f.A.astype(np.longdouble)) * f.scaling
        bound = lora.delta_bound(f, "float64")
        assert np.all(np.abs(another_order - lora.delta(f)) <= bound)
        assert np.all(np.abs(exact - lora.delta(f)) <= bound)


@pytest.mark.parametrize("size", [1e300, 1e160, 1e-160, 0.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_overflow_gives_an_infinite_bound_without_a_warning(dtype: str, size: float) -> None:
    plain = Factors(A=np.full((2, 3), size), B=np.full((4, 2), size), scaling=3.0)
    dora, biased = replace(plain, magnitude=np.ones(4)), replace(plain, bias=np.full(4, size))
    weight, x, g = np.full((4, 3), size), np.full((2, 3), size), np.ones((2, 4))
    with np.errstate(all="raise"):
        dora_gradients = lora.gradient_bound(weight, dora, x, g, dtype)
        assert dora_gradients.magnitude is not None
        found = [
            lora.delta_bound(plain, dtype),
            lora.unmerge_bound(weight, dora, dtype),
            lora.merge_cycles_bound(weight, dora, dtype, 2),
            lora.extraction_bound(weight, dora, dtype),
            lora.forward_bound(weight, dora, x, dtype),
            lora.merged_forward_bound(weight, biased, x, dtype),
            lora.gradient_bound(weight, biased, x, g, dtype).B,
            dora_gradients.A,
            dora_gradients.B,
            dora_gradients.magnitude,
            lora.mix_bound([plain] * 2, [1.0, -1.0], lora.Mixture(kind="ties"), dtype).A,
        ]
    assert not any(np.isnan(bound).any() for bound in found)
    assert all(np.isinf(bound).all() for bound in found) or size < 1
