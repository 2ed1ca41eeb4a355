"""The gate's error rates on simulated suites, judged in full and with early stopping.

The simulation is that of `make simulate`, with fewer suites.
"""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulate import ITEMS, KINDS, TRUTHS, broken_claims, judge, losses, simulate
from phi3_lora_qa.record import Outcome

pytestmark = pytest.mark.slow

SUITES = 4


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("name", KINDS)
def test_the_error_rates_are_at_most_the_claimed_ones(name: str, truth: str) -> None:
    found = simulate(name, truth, SUITES, seed=1)
    assert broken_claims(truth, KINDS[name], found) == []
    if truth == "far worse" and KINDS[name].clear:
        assert {judged.early for judged in found} == {Outcome.FAILED}


def test_a_broken_claim_is_detected() -> None:
    """Here every suite passes early, and its lower bound misses."""
    found = [
        replace(judged, early=Outcome.PASSED, below=True)
        for judged in simulate("share", "at the margin", SUITES, seed=1)
    ]
    broken = broken_claims("at the margin", KINDS["share"], found)
    assert broken == ["the lower bound misses", "early stopping differs"]


def test_near_the_limit_all_items_are_evaluated() -> None:
    base, tuned = losses(0.1, np.random.default_rng(3))
    assert judge(KINDS["loss"], base, tuned, 0.1).evaluated == ITEMS
