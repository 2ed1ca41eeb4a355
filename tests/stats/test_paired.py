"""Base against tuned model: the interval, the decision, and the number of items needed."""

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.errors import DataError
from phi3_lora_qa.metrics.custom import LARGEST
from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.paired import MANY_ITEMS, Interval, compare, decide, items_needed

UNIT = (0.0, 1.0)


def interval(low: float, high: float, n: int = 50, **others: float) -> Interval:
    middle = (low + high) / 2
    deviation = (high - low) / 2 * n**0.5 / 1.645
    whole = Interval(
        mean_base=0.5,
        mean_tuned=0.5 + middle,
        difference=middle,
        low=low,
        high=high,
        tuned_low=0.5 + low,
        tuned_high=0.5 + high,
        deviation=deviation,
        method="made for a test",
        n=n,
        observations=n,
        confidence=0.90,
    )
    return replace(whole, **others)  # type: ignore[arg-type]  # n and method are not floats


@pytest.mark.parametrize(
    ("low", "high", "rule", "value", "higher_is_better", "outcome"),
    [
        (0.01, 0.2, "improve_by", 0.0, True, Outcome.PASSED),
        (0.0, 0.2, "improve_by", 0.0, True, Outcome.INCONCLUSIVE),
        (-0.2, 0.0, "improve_by", 0.0, True, Outcome.FAILED),
        (-0.2, -0.01, "improve_by", 0.0, False, Outcome.PASSED),
        (0.01, 0.2, "improve_by", 0.0, False, Outcome.FAILED),
        (-0.2, 0.1, "improve_by", 0.0, False, Outcome.INCONCLUSIVE),
        (-0.04, 0.3, "no_worse_than", 0.05, True, Outcome.PASSED),
        (-0.06, 0.3, "no_worse_than", 0.05, True, Outcome.INCONCLUSIVE),
        (-0.3, -0.06, "no_worse_than", 0.05, True, Outcome.FAILED),
        (-0.3, 0.04, "no_worse_than", 0.05, False, Outcome.PASSED),
        (-0.3, 0.06, "no_worse_than", 0.05, False, Outcome.INCONCLUSIVE),
        (0.06, 0.3, "no_worse_than", 0.05, False, Outcome.FAILED),
        (0.1, 0.2, "at_least", 0.55, True, Outcome.PASSED),
        (0.0, 0.2, "at_least", 0.55, True, Outcome.INCONCLUSIVE),
        (-0.2, 0.0, "at_least", 0.55, True, Outcome.FAILED),
        (0.1, 0.2, "at_most", 0.75, False, Outcome.PASSED),
        (0.2, 0.3, "at_most", 0.75, False, Outcome.INCONCLUSIVE),
        (0.3, 0.4, "at_most", 0.75, False, Outcome.FAILED),
        (0.0, 0.0, "no_worse_than", 0.0, True, Outcome.PASSED),
        (0.0, 0.0, "improve_by", 0.0, True, Outcome.FAILED),
    ],
)
def test_a_decision_needs_the_whole_interval_on_one_side(
    low: float, high: float, rule: str, value: float, higher_is_better: bool, outcome: Outcome
) -> None:
    assert decide(interval(low, high), rule, value, higher_is_better) is outcome


def test_every_rule_of_a_threshold_file_can_be_decided() -> None:
    from phi3_lora_qa.data.thresholds import RULES

    for rule in RULES:
        assert isinstance(decide(interval(0.0, 0.1), rule, 0.5, True), Outcome)


def test_an_unknown_rule_and_a_nan_are_errors() -> None:
    with pytest.raises(DataError, match="unknown rule"):
        decide(interval(0.0, 0.1), "no_better_than", 0.5, True)
    with pytest.raises(DataError, match="NaN"):
        decide(interval(math.nan, 0.1), "improve_by", 0.0, True)
    with pytest.raises(DataError, match="NaN"):
        decide(interval(0.1, 0.2), "improve_by", math.nan, True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_rejected(bad: float) -> None:
    with pytest.raises(DataError, match="1 scores are not finite"):
        compare([1.0] * 20, [*[0.5] * 19, bad], seed=0, binary=False)


def test_scores_that_are_not_paired_or_out_of_range_are_rejected() -> None:
    with pytest.raises(DataError, match="pair them"):
        compare([1.0, 0.0], [1.0], seed=0, binary=True)
    with pytest.raises(DataError, match="neither 0 nor 1"):
        compare([1.0, 0.5], [1.0, 0.0], seed=0, binary=True)
    with pytest.raises(DataError, match="outside of"):
        compare([1.5, 0.5], [1.0, 0.0], seed=0, binary=False, span=UNIT)


@pytest.mark.parametrize("kind", ["binary", "bounded", "unbounded"])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_a_handful_of_items_decides_nothing(kind: str, n: int) -> None:
    found = compare(
        [0.0] * n,
        [1.0] * n,
        seed=0,
        binary=kind == "binary",
        span=UNIT if kind == "bounded" else None,
    )
    if n < 5 or kind == "unbounded":
        assert decide(found, "improve_by", 0.0, True) is Outcome.INCONCLUSIVE
    equal = compare([1.0] * n, [1.0] * n, seed=0, binary=kind == "binary")
    assert decide(equal, "no_worse_than", 0.1, True) is Outcome.INCONCLUSIVE
    assert found.n == n


def test_a_copy_of_the_base_is_neither_better_nor_worse() -> None:
    losses = list(np.random.default_rng(0).gamma(2.0, size=40))
    found = compare(losses, losses, seed=0, binary=False)
    assert decide(found, "improve_by", 0.0, higher_is_better=False) is Outcome.FAILED
    assert decide(found, "no_worse_than", 0.1, higher_is_better=False) is Outcome.PASSED


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=10, max_size=30),
    st.randoms(use_true_random=False),
)
@settings(max_examples=15, deadline=None)
def test_the_result_does_not_depend_on_the_order(
    pairs: list[tuple[float, float]], random: Random
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)
    first, second = (
        compare([b for b, _ in rows], [t for _, t in rows], seed=3, binary=False)
        for rows in (pairs, shuffled)
    )
    assert first == second


def test_binary_differences_count_gains_and_losses() -> None:
    base, tuned = [1, 1, 0, 0, 0] * 8, [1, 0, 1, 1, 0] * 8
    found = compare(base, tuned, seed=0, binary=True)
    assert (found.mean_base, found.mean_tuned) == (0.4, 0.6)
    assert found.difference == pytest.approx(0.2)
    assert found.low < 0.2 < found.high
    assert "exact" in found.method


def test_bounds_contain_their_means() -> None:
    generator = np.random.default_rng(0)
    base, tuned = generator.uniform(size=50), generator.uniform(size=50)
    for binary, span, b, t in (
        (False, None, base, tuned),
        (False, UNIT, base, tuned),
        (True, None, base.round(), tuned.round()),
    ):
        found = compare(list(b), list(t), seed=0, binary=binary, span=span)
        assert found.low < found.difference < found.high
        assert found.tuned_low < found.mean_tuned < found.tuned_high
        assert found.deviation == pytest.approx((t - b).std(ddof=1))


def test_pairing_detects_small_differences() -> None:
    """Items differ by nats and models by hundredths, which only pairing can detect."""
    generator = np.random.default_rng(1)
    base = generator.normal(3.0, 1.0, size=60)
    tuned = base - 0.05 + generator.normal(0.0, 0.05, size=60)
    found = compare(list(base), list(tuned), seed=0, binary=False)
    assert decide(found, "improve_by", 0.0, higher_is_better=False) is Outcome.PASSED
    assert found.high - found.low < 0.1 * 2 * 1.645 * base.std() / 60**0.5


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
def test_the_largest_allowed_scores_are_compared_like_small_ones(
    bounded: bool, clustered: bool
) -> None:
    base, tuned = np.random.default_rng(5).uniform(-1.0, 1.0, size=(2, 40))
    clusters = [str(n // 2) for n in range(40)] if clustered else None
    small, huge = (
        compare(
            list(base * scale),
            list(tuned * scale),
            seed=0,
            binary=False,
            span=(-scale, scale) if bounded else None,
            clusters=clusters,
        )
        for scale in (1.0, LARGEST)
    )
    for name in ("low", "high", "tuned_low", "tuned_high", "deviation"):
        assert getattr(huge, name) == pytest.approx(LARGEST * getattr(small, name))
    assert items_needed(huge, "at_least", LARGEST / 2, True) == pytest.approx(
        items_needed(small, "at_least", 0.5, True), abs=1
    )


def test_a_limit_very_close_to_the_estimate_needs_the_maximum_number_of_items() -> None:
    scores = [LARGEST, -LARGEST, *[1e-200] * 38]
    found = compare([0.0] * 40, scores, seed=0, binary=False)
    assert decide(found, "at_least", 0.0, True) is Outcome.INCONCLUSIVE
    assert items_needed(found, "at_least", 0.0, True) == MANY_ITEMS


def test_items_needed_scales_with_the_inverse_square_of_the_distance() -> None:
    near = items_needed(interval(-0.09, 0.11, n=100), "improve_by", 0.0, True)
    far = items_needed(interval(-0.08, 0.12, n=100), "improve_by", 0.0, True)
    assert near == pytest.approx(4 * far, rel=0.01)
    # Half width 0.1, distance 0.02, power 80 %: 100 * (0.1 / 0.02)^2 * (2.487 / 1.645)^2.
    assert far == pytest.approx(5714, abs=2)


def test_items_needed_for_equal_binary_scores_is_near_the_exact_number() -> None:
    found = compare([1.0] * 12, [1.0] * 12, seed=0, binary=True)
    assert 25 <= items_needed(found, "no_worse_than", 0.10, True) <= 32


def test_items_needed_is_the_sample_size_for_a_power_of_80_percent() -> None:
    from statsmodels.stats.power import TTestPower

    half = 1.645 * 0.5 / 40**0.5
    needed = items_needed(interval(0.1 - half, 0.1 + half, n=40), "improve_by", 0.0, True)
    planned = TTestPower().solve_power(
        effect_size=0.1 / 0.5, power=0.8, alpha=0.05, alternative="larger"
    )
    assert needed == pytest.approx(planned, rel=0.02)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_items_needed_exceeds_the_number_of_items(higher_is_better: bool) -> None:
    straddling = interval(-0.2, 0.15, n=30)
    for rule, value in (
        ("improve_by", 0.0),
        ("no_worse_than", 0.1),
        ("at_least", 0.45),
        ("at_most", 0.6),
    ):
        assert 30 < items_needed(straddling, rule, value, higher_is_better) <= MANY_ITEMS


def test_an_estimate_equal_to_the_limit_needs_the_maximum_number_of_items() -> None:
    assert items_needed(interval(-0.1, 0.1), "improve_by", 0.0, True) == MANY_ITEMS


def test_too_few_items_need_at_least_the_minimum_of_an_interval() -> None:
    few = compare([1.0, 2.0], [1.0, 1.5], seed=0, binary=False)
    assert "too few" in few.method
    assert items_needed(few, "improve_by", 0.0, False) == 10
    equal = compare([1.0] * 12, [1.0] * 12, seed=0, binary=False)
    assert items_needed(equal, "no_worse_than", 0.1, False) == 29
    assert items_needed(compare([], [], seed=0, binary=True), "at_least", 0.5, True) == 10


def test_a_model_at_the_margin_passes_in_at_most_five_percent_of_suites() -> None:
    """The non-inferiority test for losses, on 200 suites of 32 items exactly at the margin."""
    generator = np.random.default_rng(8)
    suites, n, margin = 200, 32, 0.10
    passed = 0
    for _ in range(suites):
        base = generator.gamma(2.0, 1.0, size=n)
        tuned = base + margin + generator.normal(0.0, 0.3, size=n)
        found = compare(list(base), list(tuned), seed=0, binary=False)
        passed += decide(found, "no_worse_than", margin, higher_is_better=False) is Outcome.PASSED
    assert passed / suites <= 0.05 + 3 * (0.05 * 0.95 / suites) ** 0.5
