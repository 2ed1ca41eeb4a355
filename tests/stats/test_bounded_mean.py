"""The bound for the mean of scores within a known range."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from phi3_lora_qa.stats.bounded_mean import bounded_interval

UNIT = (0.0, 1.0)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (19, 40), (40, 40)])
def test_for_zeros_and_ones_it_is_the_clopper_pearson_interval(right: int, n: int) -> None:
    values = np.array([1.0] * right + [0.0] * (n - right))
    exact = stats.binomtest(right, n).proportion_ci(0.90, method="exact")
    # With 10,000 draws the 5 % quantile has an error of up to 0.7 points, hence the tolerance.
    assert bounded_interval(values, UNIT, 0.90, 0) == pytest.approx(
        (exact.low, exact.high), abs=0.01
    )


def test_mirrored_scores_have_a_mirrored_interval() -> None:
    values = np.array([0.1, 0.4, 0.4, 0.9, 0.7])
    low, high = bounded_interval(values, UNIT, 0.90, 0)
    mirrored = bounded_interval(1.0 - values, UNIT, 0.90, 0)
    assert mirrored == pytest.approx((1.0 - high, 1.0 - low))


def test_equal_scores_have_an_interval_of_positive_width() -> None:
    low, high = bounded_interval(np.full(20, 0.5), UNIT, 0.90, 0)
    assert low < 0.45
    assert high > 0.55


def test_without_scores_the_interval_is_the_range() -> None:
    assert bounded_interval(np.array([]), UNIT, 0.90, 0) == UNIT


def test_the_result_depends_on_the_seed_but_not_on_the_order() -> None:
    values = np.random.default_rng(1).uniform(size=33)
    first = bounded_interval(values, UNIT, 0.90, 7)
    assert bounded_interval(values[::-1].copy(), UNIT, 0.90, 7) == first
    assert bounded_interval(values, UNIT, 0.90, 8) != first


def test_rare_collapses_pass_at_the_margin_in_at_most_five_percent_of_suites() -> None:
    """One item in twenty falls from 1 to 0. The share of suites that pass is summed exactly."""
    n, margin = 60, 0.05

    def share(low: Callable[[NDArray[np.float64]], float]) -> float:
        suites = [np.array([-1.0] * fallen + [0.0] * (n - fallen)) for fallen in range(6)]
        passing = [fallen for fallen, suite in enumerate(suites) if low(suite) > -margin]
        return float(np.sum(stats.binom.pmf(passing, n, margin)))

    assert share(lambda suite: bounded_interval(suite, (-1.0, 1.0), 0.90, 0)[0]) <= 0.05
    # Student's interval, for comparison, passes one suite in five.
    assert share(lambda suite: suite.mean() - 1.671 * suite.std(ddof=1) / n**0.5) > 0.15
