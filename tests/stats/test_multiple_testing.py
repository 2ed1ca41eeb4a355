"""One-sided p-values by flipping signs, and Holm's adjustment."""

import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.stats.multiple_testing import LEVEL, holm, worse_p_value

Holm = Callable[[list[float]], list[float]]


@pytest.fixture(scope="module")
def statsmodels_holm() -> Iterator[Holm]:
    """Return statsmodels' function, without its slow garbage collection in each call."""
    from statsmodels.stats import multitest

    def adjusted(p_values: list[float]) -> list[float]:
        return list(multitest.multipletests(p_values, method="holm")[1]) if p_values else []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda: 0)
        yield adjusted


@given(p_values=st.lists(st.floats(0, 1), max_size=12))
@settings(derandomize=True, database=None, deadline=None, max_examples=60)
def test_holm_agrees_with_statsmodels(statsmodels_holm: Holm, p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(statsmodels_holm(p_values))


@pytest.mark.parametrize(("gained", "lost"), [(2, 9), (9, 2), (0, 5), (30, 41)])
def test_for_binary_scores_it_is_mcnemars_exact_test(gained: int, lost: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    values = [1.0] * gained + [-1.0] * lost + [0.0] * 20
    two_sided = mcnemar([[10, gained], [lost, 10]], exact=True).pvalue
    found = worse_p_value(values, seed=0)
    if lost > gained:
        assert found == pytest.approx(two_sided / 2)
    else:
        assert found > 0.5


def test_all_sign_flips_of_a_few_items_are_enumerated() -> None:
    values = [-3.0, -2.0, -1.0, 0.5]
    sums = [
        sum(v * (1 if flip >> i & 1 else -1) for i, v in enumerate(values)) for flip in range(16)
    ]
    assert worse_p_value(values, seed=0) == sum(s <= sum(values) for s in sums) / 16


def test_random_sign_flips_of_many_items_agree_with_the_t_test() -> None:
    from scipy import stats

    values = np.random.default_rng(0).normal(-0.2, 1.0, size=80)
    found = worse_p_value(list(values), seed=0)
    assert found == pytest.approx(stats.ttest_1samp(values, 0, alternative="less").pvalue, abs=0.01)
    assert worse_p_value(list(values[::-1]), seed=0) == found


def test_unchanged_and_improved_items_have_large_p_values() -> None:
    assert worse_p_value([], seed=0) == 1.0
    assert worse_p_value([0.0] * 50, seed=0) == 1.0
    assert worse_p_value(list(np.linspace(0.1, 1.0, 30)), seed=0) > 0.99


def test_clusters_are_flipped_as_a_whole() -> None:
    """Three documents of ten questions each: the smallest p-value is 1 in 8."""
    values = [-1.0] * 30
    names = [f"document {i // 10}" for i in range(30)]
    assert worse_p_value(values, seed=0, clusters=names) == 1 / 8
    assert worse_p_value(values, seed=0) < 1e-6


def test_the_family_wise_error_rate_of_twelve_comparisons_is_at_most_five_percent() -> None:
    """Models that answer alike; without Holm nearly half of all runs would have a false alarm."""
    generator = np.random.default_rng(1)
    runs, alarms, unadjusted = 200, 0, 0
    for _ in range(runs):
        p_values = [worse_p_value(list(generator.normal(size=11)), seed=0) for _ in range(12)]
        alarms += min(holm(p_values)) <= LEVEL
        unadjusted += min(p_values) <= LEVEL
    assert alarms / runs <= LEVEL + 3 * (LEVEL * (1 - LEVEL) / runs) ** 0.5
    assert unadjusted / runs > 0.3
