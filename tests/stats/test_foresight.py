"""What is foreseen of the whole suite is what the whole suite then says."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulate import ITEMS, KINDS, TRUTHS, broken_claims, judge, losses, shares, simulate
from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.foresight import drawn, foresee

SUITES = 8


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("name", KINDS)
def test_the_gate_errs_as_seldom_as_it_says(name: str, truth: str) -> None:
    found = simulate(name, truth, SUITES, seed=1)
    assert broken_claims(truth, KINDS[name], found) == []
    if truth == "far worse":
        assert {judged.early for judged in found} == {Outcome.FAILED}


def test_a_gate_that_errs_is_found_out() -> None:
    """The claims can be broken: by judging on one item in five as if it were all."""
    kind = replace(KINDS["share"], span=(0.0, 1.0))
    found = [
        replace(judged, early=Outcome.PASSED, below=True)
        for judged in simulate("share", "at the margin", SUITES, seed=1)
    ]
    broken = broken_claims("at the margin", kind, found)
    assert broken == ["the lower bound misses", "an early end differs"]


def test_near_the_limit_nothing_is_certain() -> None:
    base, tuned = losses(0.1, np.random.default_rng(3))
    assert judge(KINDS["loss"], base, tuned, 0.1).asked == ITEMS


def test_foreseen_bounds_lie_outside_of_those_of_the_whole_suite() -> None:
    from phi3_lora_qa.stats.paired import compare

    base, tuned = shares(0.05, np.random.default_rng(4))
    whole = compare(base, tuned, seed=0, binary=False, span=(0.0, 1.0))
    early = foresee(
        base[:60], tuned[:60], total=ITEMS, level=0.01, seed=0, binary=False, span=(0.0, 1.0)
    )
    assert early.low < whole.low < whole.high < early.high
    assert early.tuned_low < whole.tuned_low < whole.tuned_high < early.tuned_high
    assert early.n == 60
    assert "foreseen for all 150 items" in early.method


def test_the_order_of_drawing_is_the_seeds_and_no_files() -> None:
    names = [f"item-{number}" for number in range(200)]
    places = {name: drawn(name, 0) for name in names}
    assert len(set(places.values())) == len(names)
    order = sorted(names, key=places.__getitem__)
    assert order != sorted(names, key=lambda name: drawn(name, 1))
    assert order != names
