"""Bounds for a full suite from a part: valid at every look, and equal at the end."""

import numpy as np
import pytest

from phi3_lora_qa.stats.betting import betting_bounds

LOOKS = (8, 16, 32, 64, 96, 128)
TOTAL, SUITES, LEVEL = 150, 400, 0.05


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_the_error_rate_over_all_looks_is_at_most_the_level(share: float) -> None:
    random = np.random.default_rng(7)
    below = above = 0
    for _ in range(SUITES):
        suite = (random.random(TOTAL) < share).astype(float)
        found = [betting_bounds(suite[:n], TOTAL, (0.0, 1.0), LEVEL) for n in LOOKS]
        below += any(low > suite.mean() + 1e-9 for low, _ in found)
        above += any(high < suite.mean() - 1e-9 for _, high in found)
    # Three standard errors of 400 draws above 5 %.
    assert max(below, above) / SUITES <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / SUITES)


def test_the_bounds_meet_when_all_items_are_drawn() -> None:
    suite = np.random.default_rng(1).random(40)
    low, high = betting_bounds(suite, 40, (0.0, 1.0), LEVEL)
    assert low == pytest.approx(suite.mean())
    assert high == pytest.approx(suite.mean())


def test_the_bounds_respect_certain_values() -> None:
    """39 ones among 40 items make a mean of at least 39/40, whatever the last item is."""
    low, high = betting_bounds(np.ones(39), 40, (0.0, 1.0), 1e-12)
    assert low >= 39 / 40 - 1e-9
    assert high == pytest.approx(1.0)


def test_the_bounds_scale_with_the_range() -> None:
    seen = np.random.default_rng(2).random(50)
    low, high = betting_bounds(seen, 80, (0.0, 1.0), LEVEL)
    moved = betting_bounds(10.0 * seen - 4.0, 80, (-4.0, 6.0), LEVEL)
    assert moved == pytest.approx((10.0 * low - 4.0, 10.0 * high - 4.0))


def test_a_smaller_level_has_wider_bounds() -> None:
    seen = (np.random.default_rng(3).random(50) < 0.5).astype(float)
    wide, close = (betting_bounds(seen, 90, (0.0, 1.0), level) for level in (0.001, 0.1))
    assert wide[0] < close[0] < seen.mean() < close[1] < wide[1]
