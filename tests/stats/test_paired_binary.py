"""The exact interval for paired proportions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from phi3_lora_qa.stats.paired_binary import exact_interval, tango_score

Z_95 = 1.959963985


@pytest.mark.parametrize(
    ("gained", "lost", "n", "low", "high"),
    [
        # Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017),
        # chapter 8: Bentur et al. 2009 and Cavo et al. 2012; also in R's contingencytables.
        (1, 7, 21, -0.517, -0.026),
        (6, 16, 161, -0.1240, -0.0054),
    ],
)
def test_the_score_reproduces_published_intervals(
    gained: int, lost: int, n: int, low: float, high: float
) -> None:
    seen = (gained - lost) / n
    found = [
        optimize.brentq(lambda d, z=z: tango_score(gained, lost, n, d) - z, start, stop)
        for z, start, stop in ((Z_95, -0.999, seen), (-Z_95, seen, 0.999))
    ]
    digits = 4 if n > 100 else 3
    assert [round(bound, digits) for bound in found] == [low, high]


def test_the_score_at_no_difference_is_mcnemars_statistic() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    table = [[60, 9], [21, 10]]
    chi_squared = mcnemar(table, exact=False, correction=False).statistic
    assert tango_score(21, 9, 100, 0.0) ** 2 == pytest.approx(chi_squared)


def test_without_discordant_items_the_bound_is_exactly_binomial() -> None:
    for n in (5, 29, 100):
        low, high = exact_interval(0, 0, n, 0.90)
        # With a share p of lost items, n items contain none with probability (1 - p)^n.
        assert low == pytest.approx(-(1 - 0.05 ** (1 / n)), abs=1e-6)
        assert high == -low


def test_29_equal_items_decide_a_margin_of_ten_points_and_28_do_not() -> None:
    assert exact_interval(0, 0, 29, 0.90)[0] > -0.10
    assert exact_interval(0, 0, 28, 0.90)[0] < -0.10


def test_without_items_the_interval_is_the_whole_range() -> None:
    assert exact_interval(0, 0, 0, 0.90) == (-1.0, 1.0)


def test_one_item_decides_nothing() -> None:
    low, high = exact_interval(1, 0, 1, 0.90)
    assert low < -0.5
    assert high == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
@given(st.integers(1, 60), st.data())
@settings(max_examples=15, deadline=None)
def test_the_interval_contains_the_estimate_and_is_symmetric(n: int, data: st.DataObject) -> None:
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    low, high = exact_interval(gained, lost, n, 0.90)
    assert -1.0 <= low <= (gained - lost) / n <= high <= 1.0
    assert exact_interval(lost, gained, n, 0.90) == (-high, -low)


def test_for_many_items_it_is_close_to_tangos_interval() -> None:
    seen = (40 - 20) / 160
    tango = optimize.brentq(lambda d: tango_score(40, 20, 160, d) - 1.6449, -0.9, seen)
    assert exact_interval(40, 20, 160, 0.90)[0] == pytest.approx(tango, abs=0.006)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "margin"), [(12, 0.25), (15, 0.20)])
def test_a_model_at_the_margin_passes_with_at_most_five_percent_probability(
    n: int, margin: float
) -> None:
    """By enumeration of all outcomes, at many shares of discordant items."""
    outcomes = [
        (gained, lost)
        for gained in range(n + 1)
        for lost in range(n + 1 - gained)
        # No other outcome can pass, since the bound is below the estimate.
        if (gained - lost) / n > -margin
    ]
    passing = np.array([o for o in outcomes if exact_interval(*o, n, 0.90)[0] > -margin])
    assert len(passing)
    worst = max(
        _probability(passing, n, p_lost - margin, p_lost)
        for p_lost in np.linspace(margin, (1 + margin) / 2, 60)
    )
    assert worst <= 0.05 + 1e-4


def test_tangos_own_interval_exceeds_its_level() -> None:
    """The reason for the exact interval; it also shows that the enumeration above can fail."""
    n, margin = 15, 0.10
    passing = np.array(
        [
            (gained, lost)
            for gained in range(n + 1)
            for lost in range(n + 1 - gained)
            if tango_score(gained, lost, n, -margin) > stats.norm.ppf(0.95)
        ]
    )
    worst = max(
        _probability(passing, n, p_lost - margin, p_lost) for p_lost in np.linspace(0.1, 0.55, 60)
    )
    assert worst > 0.07


def _probability(outcomes: np.ndarray, n: int, p_gained: float, p_lost: float) -> float:
    """Return the trinomial probability of a set of (gained, lost)."""
    gained, lost = outcomes[:, 0], outcomes[:, 1]
    same = n - gained - lost
    log = (
        math.lgamma(n + 1)
        - special.gammaln(gained + 1)
        - special.gammaln(lost + 1)
        - special.gammaln(same + 1)
        + special.xlogy(gained, max(p_gained, 0.0))
        + special.xlogy(lost, p_lost)
        + special.xlogy(same, max(1 - p_gained - p_lost, 0.0))
    )
    return float(np.exp(log).sum())
