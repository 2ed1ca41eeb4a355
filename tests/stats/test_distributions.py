"""Every function agrees with scipy's, from a few items to more than any suite has."""

import math

import numpy as np
import pytest
from scipy import special, stats

from phi3_lora_qa.stats.distributions import (
    beta_quantile,
    binomial_tail,
    coin_tail,
    incomplete_beta,
    normal_quantile,
    normal_tail,
    share_interval,
    student_quantile,
    x_log_y,
)


@pytest.mark.parametrize("largest", [3, 50, 5_000, 200_000])
def test_binomial_tails_agree_with_scipy(largest: int) -> None:
    rng = np.random.default_rng(largest)
    trials = rng.integers(1, largest + 1, 500)
    fewest = rng.integers(1, trials + 1)
    near = np.clip(fewest / trials + rng.normal(0.0, 2.0, 500) / np.sqrt(trials), 0.0, 1.0)
    for chance in (near, rng.random(500)):
        expected = special.bdtrc(fewest - 1, trials, chance)
        np.testing.assert_allclose(
            binomial_tail(fewest, trials, chance), expected, rtol=1e-8, atol=1e-13
        )


def test_a_tail_is_certain_or_impossible_at_the_ends() -> None:
    assert binomial_tail([1, 3, 3], 3, [1.0, 1.0, 0.0]).tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("tosses", [1, 2, 31, 2_500])
def test_tails_of_a_fair_coin_agree_with_scipy(tosses: int) -> None:
    for least in {0, 1, tosses // 2, tosses}:
        expected = stats.binomtest(least, tosses, 0.5, alternative="greater").pvalue
        assert coin_tail(least, tosses) == pytest.approx(float(expected), rel=1e-9)
    assert coin_tail(0, tosses) == 1.0


def test_small_and_uneven_parameters_agree_with_scipy() -> None:
    a, b, x = np.meshgrid([1e-3, 0.5, 1.0, 9.9, 1e5], [0.02, 0.5, 7.0, 3e4], np.linspace(0, 1, 23))
    np.testing.assert_allclose(
        incomplete_beta(a, b, x), special.betainc(a, b, x), rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize("trials", [0, 1, 7, 100, 30_000])
def test_share_intervals_agree_with_scipy(trials: int) -> None:
    for successes in {0, 1, trials // 3, trials - 1, trials} & set(range(trials + 1)):
        expected = (
            stats.binomtest(successes, trials).proportion_ci(0.9, method="exact")
            if trials
            else (0.0, 1.0)
        )
        assert share_interval(successes, trials, 0.9) == pytest.approx(tuple(expected), rel=1e-9)


@pytest.mark.parametrize("degrees", [0.7, 1.0, 2.5, 30.0, 999.0, 1e6])
def test_students_quantiles_agree_with_scipy(degrees: float) -> None:
    for confidence in (0.5, 0.9, 0.999):
        expected = float(stats.t.ppf((1.0 + confidence) / 2.0, degrees))
        assert student_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-8)


def test_the_normal_distribution_agrees_with_scipy() -> None:
    for x in np.linspace(-8.0, 8.0, 33):
        assert normal_tail(float(x)) == pytest.approx(float(stats.norm.cdf(x)), rel=1e-13)
    for x in np.linspace(-8.0, 5.0, 27):
        assert normal_quantile(normal_tail(float(x))) == pytest.approx(x, rel=1e-9, abs=1e-15)
    assert (normal_quantile(0.0), normal_quantile(1.0)) == (-math.inf, math.inf)


def test_a_beta_quantile_is_the_inverse() -> None:
    for a, b in ((0.5, 40.0), (3.0, 2.0), (2_000.0, 1.0)):
        assert float(incomplete_beta(a, b, beta_quantile(0.3, a, b))) == pytest.approx(0.3)


def test_nothing_times_an_infinite_logarithm_is_nothing() -> None:
    assert x_log_y([0.0, 0.0, 2.0], [0.0, 3.0, 1.0]).tolist() == [0.0, 0.0, 0.0]
