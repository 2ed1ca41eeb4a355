"""Each rule of the arithmetic, computed by hand: the formula and values within its bound."""

from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Approximation, Arithmetic, arithmetic_of, exact, round_to

V = 2.0**-53
U32, U16, B16 = 2.0**-24, 2.0**-11, 2.0**-8
TINY = 2.0**-126

SINGLE = Arithmetic(dtype="float32")
HALF = Arithmetic(dtype="float16")
BRAIN = Arithmetic(dtype="bfloat16")


def near(value: list[float], error: list[float]) -> Approximation:
    return Approximation(value=np.array(value), error=np.array(error))


def error(found: Approximation) -> list[float]:
    assert found.error.ndim == 1
    return [float(e) for e in found.error]


def just(expected: list[float]) -> Any:
    """Compare to float64 accuracy, without the 1e-12 that approx allows for small numbers."""
    return pytest.approx(expected, rel=4e-15, abs=0)


def g32(n: int) -> float:
    """Return gamma of float32 plus that of the reference in float64."""
    return n * U32 / (1 - n * U32) + n * V / (1 - n * V)


def test_low_precision_accumulates_in_float32_and_others_in_themselves() -> None:
    used = [Arithmetic(dtype=d).accumulate for d in ("float16", "bfloat16", "float32", "float64")]
    assert used == ["float32", "float32", "float32", "float64"]
    assert Arithmetic(dtype="float16", accumulate="float16").accumulate == "float16"
    assert not HALF.mixed


def test_a_dtype_has_its_default_arithmetic() -> None:
    assert arithmetic_of("float16") == HALF
    worst = Arithmetic(dtype="float16", accumulate="float16")
    assert arithmetic_of(worst) is worst


@pytest.mark.parametrize("dtypes", [("int8", ""), ("float16", "tf32")])
def test_unknown_dtypes_are_refused(dtypes: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="unknown dtype"):
        Arithmetic(dtype=dtypes[0], accumulate=dtypes[1])


def test_exact_values_have_no_error_and_their_own_magnitude() -> None:
    found = exact(np.array([-2.0, 3.0]))
    assert error(found) == [0.0, 0.0]
    assert near([-2.0, 3.0], [0.5, 0.0]).max_abs.tolist() == [2.5, 3.0]


def test_a_cast_value_errs_by_the_actual_rounding() -> None:
    found = HALF.cast(np.array([1.0, 1 + 2.0**-12, 1e6]))
    assert found.value.tolist() == [1.0, 1 + 2.0**-12, 1e6]
    assert error(found) == [0.0, 2.0**-12, np.inf]


def test_a_rounding_costs_u_times_the_value_plus_underflow_and_is_infinite_beyond_the_range() -> (
    None
):
    found = HALF.rounding(np.array([0.0, 8.0, 65504.0, 65505.0]))
    share = U16 + V
    assert found.tolist() == [0.0, 8 * share + 2.0**-25, 65504 * share + 2.0**-25, np.inf]
    assert SINGLE.rounding(np.array([8.0])).tolist() == [8 * (U32 + V) + TINY]


def test_a_sum_adds_the_errors_and_rounds_once() -> None:
    found = HALF.add(near([3.0, -8.0], [0.25, 0.0]), near([5.0, 2.0], [0.5, 0.125]))
    assert found.value.tolist() == [8.0, -6.0]
    share = U16 + V
    expected = [0.75 + 8.75 * share + 2.0**-25, 0.125 + 6.125 * share + 2.0**-25]
    assert error(found) == just(expected)


def test_adding_zero_rounds_nothing() -> None:
    zero, some = near([0.0], [0.0]), near([3.0], [0.25])
    assert error(HALF.add(zero, some)) == [0.25]
    assert error(HALF.add(some, zero)) == [0.25]
    assert error(HALF.add(near([0.0], [0.125]), some))[0] > 0.375


def test_a_sum_beyond_the_range_is_unbounded() -> None:
    assert error(HALF.add(near([40000.0], [0.0]), near([30000.0], [0.0]))) == [np.inf]


def test_a_difference_is_the_sum_with_the_negative() -> None:
    found = HALF.subtract(near([3.0], [0.25]), near([5.0], [0.5]))
    assert found.value.tolist() == [-2.0]
    assert error(found) == just([0.75 + 2.75 * (U16 + V) + 2.0**-25])


def test_a_power_of_two_scales_without_rounding_but_for_underflow_and_overflow() -> None:
    assert error(HALF.scale(near([3.0], [0.25]), 4.0)) == [1.0]
    assert error(HALF.scale(near([3.0], [0.25]), 1.0)) == [0.25]
    assert error(HALF.scale(near([3.0], [0.25]), -0.5)) == [0.125 + 2.0**-25]
    assert error(HALF.scale(near([40000.0], [0.0]), 2.0)) == [np.inf]
    assert error(HALF.scale(near([0.0], [0.0]), 0.5)) == [0.0]
    assert HALF.scale(near([3.0], [0.25]), -0.5).value.tolist() == [-1.5]


def test_any_other_factor_is_rounded_itself_and_rounds_the_product() -> None:
    found = HALF.scale(near([3.0], [0.25]), 5.0)
    assert error(found) == just([1.25 + 16.25 * (U16 + V) + 2.0**-25])
    third = 1 / 3 - float(round_to(np.array(1 / 3), "float16"))
    carried = 0.25 / 3 + abs(third) * 3.25
    found = HALF.scale(near([3.0], [0.25]), 1 / 3)
    expected = carried + (1 + carried) * (U16 + V) + 2.0**-25
    assert error(found) == just([expected])


def test_scaling_by_zero_gives_exact_zero() -> None:
    found = HALF.scale(near([3.0], [0.25]), 0.0)
    assert (found.value.tolist(), error(found)) == ([0.0], [0.0])


def test_a_product_of_entries_carries_both_errors() -> None:
    found = HALF.times(near([3.0], [0.25]), near([-5.0], [0.5]))
    assert found.value.tolist() == [-15.0]
    carried = 3 * 0.5 + 0.25 * 5.5
    expected = carried + (15 + carried) * (U16 + V) + 2.0**-25
    assert error(found) == just([expected])
    assert error(HALF.times(near([300.0], [0.0]), near([300.0], [0.0]))) == [np.inf]


def test_a_quotient_divides_by_the_least_that_the_divisor_may_be() -> None:
    found = HALF.divide(near([3.0], [0.25]), near([-5.0], [0.5]))
    assert found.value.tolist() == [-0.6]
    carried = (0.25 + 0.6 * 0.5) / 4.5
    expected = carried + (0.6 + carried) * (U16 + V) + 2.0**-25
    assert error(found) == just([expected])


@pytest.mark.parametrize("divisor", [([0.5], [0.5]), ([0.25], [0.5]), ([0.0], [0.0])])
def test_a_divisor_that_may_be_zero_gives_no_bound(
    divisor: tuple[list[float], list[float]],
) -> None:
    assert error(HALF.divide(near([3.0], [0.0]), near(*divisor))) == [np.inf]
    assert error(HALF.divide(near([0.0], [0.0]), near(*divisor))) == [np.inf]


def test_zero_over_something_is_exactly_zero() -> None:
    assert error(HALF.divide(near([0.0], [0.0]), near([3.0], [0.5]))) == [0.0]


def product(arithmetic: Arithmetic, a: Approximation, b: Approximation) -> list[float]:
    row = Approximation(value=a.value[None], error=a.error[None])
    return error(
        Approximation(**{k: v[:, 0] for k, v in vars(arithmetic.product(row, b.column())).items()})
    )


def test_an_inner_product_of_n_terms_costs_gamma_n_of_the_magnitudes() -> None:
    a, b = near([1.0, -2.0, 3.0], [0.0] * 3), near([4.0, 5.0, 6.0], [0.0] * 3)
    expected = g32(3) * 32 + TINY * (3 + 6 + 15)
    assert product(SINGLE, a, b) == just([expected])


def test_terms_that_are_zero_do_not_count() -> None:
    a, b = near([1.0, 0.0, 3.0], [0.0] * 3), near([4.0, 5.0, 0.0], [0.0] * 3)
    assert product(SINGLE, a, b) == just([g32(1) * 4 + TINY * (1 + 4 + 9)])
    a, b = near([0.5, 0.0, 0.5], [0.0] * 3), near([0.5, 0.5, 0.25], [0.0] * 3)
    assert product(SINGLE, a, b) == just([g32(2) * 0.375 + TINY * (2 + 1 + 1.25)])
    assert product(SINGLE, near([0.0, 1.0], [0.0] * 2), near([1.0, 0.0], [0.0] * 2)) == [0.0]
    # What may be other than zero counts.
    some = product(SINGLE, near([0.0, 1.0], [0.5, 0.0]), near([1.0, 1.0], [0.0] * 2))
    assert some == just([0.5 + g32(2) * 1.5 + TINY * (2 + 1.5 + 2)])


def test_an_inner_product_carries_the_errors_of_both_sides() -> None:
    found = product(SINGLE, near([3.0], [0.25]), near([-5.0], [0.5]))
    carried = 0.25 * 5.5 + 3 * 0.5
    assert found == just([carried + g32(1) * 3.25 * 5.5 + TINY * 9.75])
    assert product(SINGLE, near([-3.0], [0.25]), near([5.0], [0.5])) == found
    assert product(SINGLE, near([3.0], [0.25]), near([5.0], [0.0]))[0] > 1.25
    assert product(SINGLE, near([3.0], [0.0]), near([5.0], [0.5]))[0] > 1.5


def test_a_float32_sum_is_stored_once() -> None:
    a, b = near([1.0, -2.0, 3.0], [0.0] * 3), near([4.0, 5.0, 6.0], [0.0] * 3)
    inner = g32(3) * 32 + TINY * 24
    stored = inner + (12 + inner) * (U16 + V) + 2.0**-25
    assert product(HALF, a, b) == pytest.approx([stored])


def test_the_worst_case_accumulates_in_the_dtype_itself() -> None:
    worst = Arithmetic(dtype="float16", accumulate="float16")
    a, b = near([1.0, -2.0, 3.0], [0.0] * 3), near([4.0, 5.0, 6.0], [0.0] * 3)
    gamma = 3 * U16 / (1 - 3 * U16) + 3 * V / (1 - 3 * V)
    assert product(worst, a, b) == just([gamma * 32 + 3 * 2.0**-25])


def test_a_sum_that_may_leave_the_range_on_its_way_is_unbounded() -> None:
    a, b = near([200.0, -200.0], [0.0] * 2), near([300.0, 300.0], [0.0] * 2)
    worst = Arithmetic(dtype="float16", accumulate="float16")
    assert product(worst, a, b) == [np.inf]
    assert np.isfinite(product(HALF, a, b)[0])  # float32 holds 120,000, and the sum is 0
    assert product(HALF, near([300.0], [0.0]), near([300.0], [0.0])) == [np.inf]


def test_numbers_so_small_that_only_underflow_counts() -> None:
    a, b = near([2.0**-100, -(2.0**-101)], [0.0] * 2), near([2.0**-40, 0.25], [0.0] * 2)
    max_abs = 2.0**-140 + 2.0**-103
    ends = 2.0**-100 + 2.0**-101 + 2.0**-40 + 0.25
    expected = g32(2) * max_abs + TINY * (2 + ends)
    assert product(SINGLE, a, b) == just([expected])
    flat = Arithmetic(dtype="float16", accumulate="float16")
    only_products = product(flat, near([2.0**-20], [0.0]), near([2.0**-20], [0.0]))
    gamma = U16 / (1 - U16) + V / (1 - V)
    expected = gamma * 2.0**-40 + 2.0**-25
    assert only_products == just([expected])
    small = [near([2.0**-120], [0.0])] * 3
    expected = g32(2) * 3 * 2.0**-120 + 2 * TINY
    assert error(SINGLE.total(small)) == just([expected])
    found = error(SINGLE.add(*small[:2]))
    assert found == just([2.0**-119 * (U32 + V) + TINY])
    assert error(SINGLE.scale(small[0], 0.5)) == [TINY]
    stored = error(HALF.total(small))
    assert stored == pytest.approx([2.0**-25], rel=1e-6, abs=0)


def test_the_largest_number_is_bounded_and_anything_beyond_is_not() -> None:
    flat = Arithmetic(dtype="float16", accumulate="float16")
    assert np.isfinite(error(flat.total([near([65504.0], [0.0])]))[0])
    assert error(flat.total([near([65504.0], [0.5])])) == [np.inf]
    assert error(HALF.scale(near([32752.0], [0.0]), 2.0)) == [0.0]
    # 65,500 fits, and 65,500 with its rounding does not.
    assert product(flat, near([65500.0], [0.0]), near([1.0], [0.0])) == [np.inf]
    assert np.isfinite(product(flat, near([65400.0], [0.0]), near([1.0], [0.0]))[0])
    # The root of 65,504 is 255.9; with what sums of squares may err, 255.9 is past it.
    assert np.isfinite(error(norms(flat, near([255.0], [0.0])))[0])
    assert error(norms(flat, near([255.9], [0.0]))) == [np.inf]


def test_a_total_adds_errors_and_costs_gamma_of_one_less_than_its_terms() -> None:
    terms = [near([3.0], [0.25]), near([-5.0], [0.5]), near([1.0], [0.0])]
    found = SINGLE.total(terms)
    assert found.value.tolist() == [-1.0]
    assert error(found) == pytest.approx([0.75 + g32(2) * 9.75 + 2 * TINY])
    inner = 0.75 + g32(2) * 9.75 + 2 * TINY
    stored = inner + (1 + inner) * (U16 + V) + 2.0**-25
    assert error(HALF.total(terms)) == just([stored])
    assert error(SINGLE.total([near([3.0], [0.25])])) == [0.25]
    assert error(SINGLE.total([near([0.0], [0.0])] * 3)) == [0.0]
    assert error(SINGLE.total([near([3e38], [0.0]), near([-3e38], [0.0])])) == [np.inf]


def norms(arithmetic: Arithmetic, a: Approximation) -> Approximation:
    row = Approximation(value=a.value[None], error=a.error[None])
    return arithmetic.row_norms(row)


def test_a_norm_costs_half_gamma_n_a_root_and_the_errors_own_norm() -> None:
    found = norms(SINGLE, near([3.0, 4.0], [0.3, 0.4]))
    assert found.value.tolist() == [5.0]
    share = (1 - np.sqrt(1 - g32(2))) * (1 + U32) + U32
    assert error(found) == just([0.5 + share * 5.5 + 2 * TINY / 5.5])
    stored = error(found)[0] + (5 + error(found)[0]) * (B16 + V) + TINY
    assert error(norms(BRAIN, near([3.0, 4.0], [0.3, 0.4]))) == just([stored])


def test_the_norm_of_exact_values_costs_its_own_roundings_only() -> None:
    share = (1 - np.sqrt(1 - g32(3))) * (1 + U32) + U32
    found = error(norms(SINGLE, near([2.0, -3.0, 6.0], [0.0] * 3)))
    # 1 - sqrt(1 - x) keeps half the digits of a small x; a hundredth of the float64 part shows.
    assert found == pytest.approx([share * 7 + 3 * TINY / 7], rel=1e-11, abs=0)


def test_a_norm_whose_squares_underflow_may_lose_all_of_them() -> None:
    found = norms(SINGLE, near([2.0**-80, 0.0], [0.0, 0.0]))
    assert 2.0**-63 < error(found)[0] < 2.0**-62
    assert error(norms(SINGLE, near([0.0, 0.0], [0.0, 0.0]))) == [0.0]


def test_a_norm_whose_squares_overflow_is_unbounded() -> None:
    assert np.isfinite(error(norms(SINGLE, near([1.8e19], [0.0])))[0])
    assert error(norms(SINGLE, near([1.9e19], [0.0]))) == [np.inf]


def test_a_norm_of_more_terms_than_the_precision_counts_still_cannot_exceed_itself_unbounded() -> (
    None
):
    worst = Arithmetic(dtype="bfloat16", accumulate="bfloat16")
    found = worst.row_norms(exact(np.ones((1, 300))))
    assert np.isfinite(found.error[0])
    assert found.error[0] >= found.value[0]


def test_an_infinite_bound_stays_infinite() -> None:
    lost, zero = near([1.0], [np.inf]), near([0.0], [0.0])
    assert error(HALF.times(lost, zero)) == [np.inf]
    assert error(HALF.scale(lost, 0.0)) == [np.inf]
    assert product(HALF, lost, zero) == [np.inf]
    assert error(HALF.divide(zero, lost)) == [np.inf]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "shape", [(1, 64, 1), (8, 64, 8), (1, 3000, 64), (64, 3000, 1), (33, 300, 17)], ids=str
)
def test_torch_accumulates_low_precision_products_in_float32(
    dtype: str, shape: tuple[int, int, int]
) -> None:
    """1 + u/2 + u/2 + ... stays 1 where every partial sum is rounded to the dtype."""
    import torch

    kind, (m, k, n) = getattr(torch, dtype), shape
    u = 2.0 ** -(8 if dtype == "bfloat16" else 11)
    x, w = torch.ones((m, k), dtype=kind), torch.full((n, k), u / 2, dtype=kind)
    w[:, 0] = 1.0
    exact_sum = torch.tensor(1 + (k - 1) * u / 2)
    for found in (x @ w.T, torch.nn.functional.linear(x, w), (w @ x.T).T):
        assert (found.float() - exact_sum).abs().max() <= 2 * u * exact_sum
