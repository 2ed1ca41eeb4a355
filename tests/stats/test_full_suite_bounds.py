"""Bounds for the full suite's interval from the items drawn so far."""

import math

import numpy as np

from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.full_suite_bounds import (
    ASSUMED_LOSS_RANGE,
    FIRST_BATCH,
    bound_full_suite,
    next_batch_size,
    sampling_key,
)
from phi3_lora_qa.stats.paired import compare, decide

ITEMS = 150


def test_the_predicted_bounds_are_wider_than_those_of_the_full_suite() -> None:
    random = np.random.default_rng(4)
    base = random.uniform(0.6, 0.8, ITEMS).tolist()
    tuned = (np.array(base) - 0.05 + random.uniform(-0.2, 0.2, ITEMS)).tolist()
    full = compare(base, tuned, seed=0, binary=False, span=(0.0, 1.0))
    early = bound_full_suite(base, tuned[:60], level=0.01, seed=0, binary=False, span=(0.0, 1.0))
    assert early.low < full.low < full.high < early.high
    assert early.tuned_low < full.tuned_low < full.tuned_high < early.tuned_high
    assert early.n == 60
    assert "predicted for all 150 items" in early.method


def test_equal_losses_do_not_rule_out_unseen_collapses() -> None:
    """Rare collapses need not be among the first items; only many items can rule them out."""
    base = [2.0] * ITEMS
    few = bound_full_suite(
        base, base[:48], level=0.05, seed=0, binary=False, likely=ASSUMED_LOSS_RANGE
    )
    assert few.low < -0.1 < 0.1 < few.high
    many = bound_full_suite(
        [2.0] * 3000, base * 12, level=0.05, seed=0, binary=False, likely=ASSUMED_LOSS_RANGE
    )
    assert -0.1 < many.low < 0.0 < many.high < 0.1


def test_a_loss_outside_of_the_assumed_range_widens_it() -> None:
    base = [2.0] * ITEMS
    tuned = [*(2.0 for _ in range(71)), 40.0]
    far = bound_full_suite(base, tuned, level=0.05, seed=0, binary=False, likely=ASSUMED_LOSS_RANGE)
    near = bound_full_suite(
        base, [*tuned[:-1], 12.0], level=0.05, seed=0, binary=False, likely=ASSUMED_LOSS_RANGE
    )
    assert far.high > near.high


def test_without_a_known_range_the_bounds_are_infinite() -> None:
    found = bound_full_suite([2.0] * ITEMS, [0.0] * 72, level=0.05, seed=0, binary=False)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert decide(found, "no_worse_than", 0.1, higher_is_better=True) is Outcome.INCONCLUSIVE
    assert decide(found, "improve_by", 0.1, higher_is_better=False) is Outcome.INCONCLUSIVE


def test_the_sampling_order_depends_on_the_number_and_not_on_the_names() -> None:
    names = [f"item-{number}" for number in range(200)]
    keys = {name: sampling_key(name, 0) for name in names}
    assert len(set(keys.values())) == len(names)
    order = sorted(names, key=keys.__getitem__)
    assert order != sorted(names, key=lambda name: sampling_key(name, 1))
    assert order != names


def test_batches_grow_by_half() -> None:
    assert next_batch_size(0) == FIRST_BATCH == 48
    assert [next_batch_size(seen) for seen in (48, 72, 108)] == [24, 36, 54]
    assert next_batch_size(2) == 24
