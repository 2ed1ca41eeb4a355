"""A change that is called detectable is detected four times out of five."""

import math

import numpy as np
import pytest
from scipy import stats

from phi3_lora_qa.data.power import detectable_mean, detectable_share, independent_items

TRIALS = 4_000


def power(differences: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> float:
    """The share of rows whose mean is above zero by a one-sided t test at 5 %."""
    tests = stats.ttest_1samp(differences, 0.0, axis=1, alternative="greater")
    return float(np.mean(np.asarray(tests.pvalue) < 0.05))


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.1), (500, 0.2), (1_000, 0.1)])
def test_a_detectable_share_is_detected_four_times_out_of_five(n: int, discordant: float) -> None:
    change = detectable_share(n, discordant)
    better, worse = (discordant + change) / 2, (discordant - change) / 2
    rng = np.random.default_rng(0)
    drawn = rng.choice([1.0, -1.0, 0.0], (TRIALS, n), p=[better, worse, 1 - discordant])
    error = 3 * math.sqrt(0.8 * 0.2 / TRIALS)
    # The formula takes the variance without the squared mean, so it asks for a little too much.
    assert 0.8 - error < power(drawn) < 0.88


@pytest.mark.parametrize("n", [30, 200])
def test_a_detectable_mean_is_detected_four_times_out_of_five(n: int) -> None:
    drawn = np.random.default_rng(0).normal(detectable_mean(n, 0.3), 0.3, (TRIALS, n))
    assert power(drawn) == pytest.approx(0.8, abs=0.02 + 3 * math.sqrt(0.8 * 0.2 / TRIALS))


def test_the_figures_of_the_formula() -> None:
    assert detectable_share(200, 0.10) == pytest.approx(0.0556, abs=1e-4)
    assert detectable_share(1_000, 0.20) == pytest.approx(0.0352, abs=1e-4)
    assert detectable_share(50, 0.10) == pytest.approx(0.1236, abs=1e-4)  # all of them one way
    assert detectable_share(3, 0.10) == 1.0
    assert detectable_mean(100, 0.3) == pytest.approx(0.0746, abs=1e-4)


def test_items_of_a_cluster_count_less() -> None:
    assert independent_items([]) == 0
    assert independent_items([""] * 9) == 9
    assert independent_items(["a", "b", "c", ""]) == 4
    assert independent_items(["a"] * 5 + ["b"] * 5) == 2
    assert independent_items(["a"] * 9 + [""]) == pytest.approx(100 / 82)
