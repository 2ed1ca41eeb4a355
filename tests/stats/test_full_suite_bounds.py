"""What is foreseen of the whole suite is what the whole suite then says."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulate import ITEMS, KINDS, TRUTHS, broken_claims, judge, losses, shares, simulate
from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.full_suite_bounds import NATS, bound_full_suite, sampling_key
from phi3_lora_qa.stats.paired import decide

pytestmark = pytest.mark.slow

SUITES = 4


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("name", KINDS)
def test_the_gate_errs_as_seldom_as_it_says(name: str, truth: str) -> None:
    found = simulate(name, truth, SUITES, seed=1)
    assert broken_claims(truth, KINDS[name], found) == []
    if truth == "far worse" and KINDS[name].clear:
        assert {judged.early for judged in found} == {Outcome.FAILED}


def test_a_gate_that_errs_is_found_out() -> None:
    """The claims can be broken: here by passing each early, with bounds that miss."""
    found = [
        replace(judged, early=Outcome.PASSED, below=True)
        for judged in simulate("share", "at the margin", SUITES, seed=1)
    ]
    broken = broken_claims("at the margin", KINDS["share"], found)
    assert broken == ["the lower bound misses", "an early end differs"]


def test_near_the_limit_nothing_is_certain() -> None:
    base, tuned = losses(0.1, np.random.default_rng(3))
    assert judge(KINDS["loss"], base, tuned, 0.1).asked == ITEMS


def test_foreseen_bounds_lie_outside_of_those_of_the_whole_suite() -> None:
    from phi3_lora_qa.stats.paired import compare

    base, tuned = shares(0.05, np.random.default_rng(4))
    whole = compare(base, tuned, seed=0, binary=False, span=(0.0, 1.0))
    early = bound_full_suite(base, tuned[:60], level=0.01, seed=0, binary=False, span=(0.0, 1.0))
    assert early.low < whole.low < whole.high < early.high
    assert early.tuned_low < whole.tuned_low < whole.tuned_high < early.tuned_high
    assert early.n == 60
    assert "foreseen for all 150 items" in early.method


def test_equal_losses_prove_nothing_of_those_that_were_not_seen() -> None:
    """What collapses rarely need not be among the first: only a suite's size can rule it out."""
    base = [2.0] * ITEMS
    few = bound_full_suite(base, base[:48], level=0.05, seed=0, binary=False, likely=NATS)
    assert few.low < -0.1 < 0.1 < few.high
    many = bound_full_suite([2.0] * 3000, base * 12, level=0.05, seed=0, binary=False, likely=NATS)
    assert -0.1 < many.low < 0.0 < many.high < 0.1


def test_a_loss_beyond_the_range_widens_it() -> None:
    base = [2.0] * ITEMS
    tuned = [*(2.0 for _ in range(71)), 40.0]
    far = bound_full_suite(base, tuned, level=0.05, seed=0, binary=False, likely=NATS)
    near = bound_full_suite(
        base, [*tuned[:-1], 12.0], level=0.05, seed=0, binary=False, likely=NATS
    )
    assert far.high > near.high


def test_of_scores_without_any_known_range_nothing_is_foreseen() -> None:
    found = bound_full_suite([2.0] * ITEMS, [0.0] * 72, level=0.05, seed=0, binary=False)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert decide(found, "no_worse_than", 0.1, higher_is_better=True) is Outcome.INCONCLUSIVE
    assert decide(found, "improve_by", 0.1, higher_is_better=False) is Outcome.INCONCLUSIVE


def test_the_order_of_drawing_is_the_seeds_and_no_files() -> None:
    names = [f"item-{number}" for number in range(200)]
    places = {name: sampling_key(name, 0) for name in names}
    assert len(set(places.values())) == len(names)
    order = sorted(names, key=places.__getitem__)
    assert order != sorted(names, key=lambda name: sampling_key(name, 1))
    assert order != names
