"""The interval for the mean of an unbounded score."""

import math

import numpy as np
import pytest
from scipy import stats

from phi3_lora_qa.stats.unbounded_mean import MIN_EQUAL_ITEMS, MIN_ITEMS, unbounded_interval

WHOLE_LINE = (-math.inf, math.inf)


def test_below_ten_items_the_bounds_are_infinite() -> None:
    values = np.random.default_rng(0).normal(size=MIN_ITEMS)
    assert unbounded_interval(values[:-1], 0.90, 0) == WHOLE_LINE
    assert all(map(math.isfinite, unbounded_interval(values, 0.90, 0)))
    assert unbounded_interval(np.array([]), 0.90, 0) == WHOLE_LINE


def test_equal_differences_need_29_items() -> None:
    assert unbounded_interval(np.full(MIN_EQUAL_ITEMS - 1, 0.2), 0.90, 0) == WHOLE_LINE
    assert unbounded_interval(np.full(MIN_EQUAL_ITEMS, 0.2), 0.90, 0) == (0.2, 0.2)


@pytest.mark.parametrize("speck", [5e-324, 1e-200, 1e-15])
def test_differences_by_rounding_count_as_equal(speck: float) -> None:
    values = np.array([0.0] * 30 + [speck])
    assert unbounded_interval(values, 0.90, 0) == (0.0, speck)
    assert unbounded_interval(values[-12:], 0.90, 0) == WHOLE_LINE


def test_one_outlier_keeps_the_bounds_wide() -> None:
    low, high = unbounded_interval(np.array([0.0] * 19 + [1.0]), 0.90, 0)
    assert low < 0.0
    assert high > 0.13


@pytest.mark.parametrize("n", [10, 40, 200])
def test_it_is_never_narrower_than_student_or_bca(n: int) -> None:
    values = np.random.default_rng(n).gamma(2.0, size=n)
    low, high = unbounded_interval(values, 0.90, 0)
    t = stats.t.interval(0.90, n - 1, values.mean(), stats.sem(values))
    bca = stats.bootstrap(
        (values,), np.mean, confidence_level=0.90, n_resamples=5_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert low <= min(t[0], bca.low) + 1e-12
    assert high >= max(t[1], bca.high) - 1e-12
    assert high - low < 1.6 * max(t[1] - t[0], bca.high - bca.low)


def test_the_level_is_right_under_skewness_unlike_students() -> None:
    """Exponential differences with mean 0: how often is the upper bound below 0?"""
    generator = np.random.default_rng(5)
    suites, n = 200, 20
    samples = generator.exponential(size=(suites, n)) - 1.0
    missed = sum(unbounded_interval(sample, 0.90, 0)[1] < 0.0 for sample in samples)
    student = sum(
        stats.t.interval(0.90, n - 1, sample.mean(), stats.sem(sample))[1] < 0.0
        for sample in samples
    )
    assert missed / suites <= 0.05 + 3 * (0.05 * 0.95 / suites) ** 0.5
    assert student > missed


def test_the_level_is_right_for_normal_differences() -> None:
    generator = np.random.default_rng(6)
    suites, n = 200, 12
    samples = generator.normal(size=(suites, n))
    bounds = [unbounded_interval(sample, 0.90, 0) for sample in samples]
    tolerance = 3 * (0.05 * 0.95 / suites) ** 0.5
    assert sum(low > 0.0 for low, _ in bounds) / suites <= 0.05 + tolerance
    assert sum(high < 0.0 for _, high in bounds) / suites <= 0.05 + tolerance
    # And not by being infinite: the mean width is near Student's, 2 * 1.796 / sqrt(12).
    assert np.mean([high - low for low, high in bounds]) < 1.25


def test_the_result_depends_on_the_seed_only() -> None:
    values = np.random.default_rng(2).exponential(size=25)
    assert unbounded_interval(values, 0.90, 1) == unbounded_interval(values, 0.90, 1)
    assert unbounded_interval(values, 0.90, 1) != unbounded_interval(values, 0.90, 2)


def test_many_items_are_resampled_in_batches() -> None:
    low, high = unbounded_interval(np.random.default_rng(0).normal(size=3_000), 0.90, 0)
    assert low < 0.0 < high or abs(low) < 0.1
