import math

import numpy as np
import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Factors
from tests.lora.drawing import CASES, cases

# delta = diag(12, 6), seen through an A and a B that are no diagonals themselves.
PINNED = Factors(
    A=np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]),
    B=np.array([[2.0, 2.0], [1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]),
    scaling=-3.0,
)


def test_the_spectrum_is_that_of_the_delta() -> None:
    assert lora.singular_values(PINNED) == pytest.approx([12.0, 6.0], rel=1e-14)
    assert lora.frobenius_norm(PINNED) == pytest.approx(180.0**0.5, rel=1e-14)
    assert lora.spectral_norm(PINNED) == pytest.approx(12.0, rel=1e-14)


def test_the_spectrum_from_the_factors_is_that_of_the_dense_delta_in_a_thousand_draws() -> None:
    count = 0
    for dtype in ("float32", "bfloat16", "float16"):
        for _, case in cases(dtype, seed=41):
            f = case.factors
            dense = np.linalg.svdvals(lora.delta(f))
            found = lora.singular_values(f)
            size = abs(f.scaling) * np.linalg.norm(f.A) * np.linalg.norm(f.B)
            assert len(found) == min(f.rank, *dense.shape)
            assert np.abs(found - dense[: len(found)]).max() <= 2.0**-44 * size
            assert abs(lora.frobenius_norm(f) - np.linalg.norm(dense)) <= 2.0**-44 * size
            assert abs(lora.spectral_norm(f) - dense[0]) <= 2.0**-44 * size
            count += 1
    assert count >= 3 * CASES


def test_a_delta_of_rank_zero_has_no_singular_values_and_norm_zero() -> None:
    nothing = Factors(A=np.zeros((0, 3)), B=np.zeros((4, 0)), scaling=1.0)
    assert lora.singular_values(nothing).size == 0
    assert lora.spectral_norm(nothing) == 0.0
    assert lora.frobenius_norm(nothing) == 0.0


def test_the_stable_rank_compares_all_squares_with_the_largest() -> None:
    assert lora.stable_rank(np.array([4.0, 2.0, 0.0])) == 1.25
    assert lora.stable_rank(np.array([3.0, 3.0, 3.0])) == 3.0


def test_the_effective_rank_is_the_exponential_of_the_entropy() -> None:
    assert lora.effective_rank(np.array([5.0, 5.0, 0.0])) == pytest.approx(2.0, rel=1e-14)
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert lora.effective_rank(np.array([3.0, 1.0])) == pytest.approx(expected, rel=1e-14)
    assert lora.effective_rank(np.array([0.25])) == 1.0


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros(0)], ids=["zeros", "none"])
def test_a_delta_of_zeros_has_no_rank(values: np.ndarray) -> None:
    assert lora.stable_rank(values) == 0.0
    assert lora.effective_rank(values) == 0.0


def test_ranks_do_not_depend_on_the_size_of_the_delta() -> None:
    values = np.array([1.0, 0.5, 0.125])
    for size in (2.0**-500, 2.0**500):
        assert lora.stable_rank(size * values) == lora.stable_rank(values)
        assert lora.effective_rank(size * values) == pytest.approx(lora.effective_rank(values))


NO_NUMBER = (
    Factors(A=np.array([[np.nan, 1.0]]), B=np.ones((3, 1)), scaling=1.0),
    Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=np.inf),
    Factors(A=np.full((1, 2), 1e200), B=np.full((3, 1), 1e200), scaling=1.0),
)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("factors", NO_NUMBER, ids=["NaN", "infinite", "overflowing"])
def test_a_delta_with_nan_has_a_spectrum_of_nan(factors: Factors) -> None:
    values = lora.singular_values(factors)
    assert values.shape == (1,)
    for found in (
        *values,
        lora.spectral_norm(factors),
        lora.stable_rank(values),
        lora.effective_rank(values),
    ):
        assert math.isnan(found)
    assert not math.isfinite(lora.frobenius_norm(factors))
    with pytest.raises(InputError, match="has no singular values; find their source"):
        lora.truncate(factors, 1)


def test_nan_is_not_treated_as_a_zero_delta() -> None:
    for values in (np.array([np.nan, 1.0]), np.array([1.0, np.nan])):
        assert math.isnan(lora.stable_rank(values))
        assert math.isnan(lora.effective_rank(values))
    with pytest.raises(InputError, match="has no singular values"):
        lora.factorize(np.array([[np.inf]]), 1)
