"""Bounds for the mean of a whole suite while only some of its items, drawn at random, are known.

They hold at every number of items at once, so that one may look as often as one likes. Items are
drawn without replacement: what is left is known to be a part of the suite, and the bounds close as
it is used up.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phi3_lora_qa.stats.clusters import Numbers

HORIZON = 64
"""The number of items at which the bounds are meant to be closest."""

_MOST = 0.9
"""The share of the capital that may be lost at once."""
_BISECTIONS = 40


def betting_bounds(
    seen: "Numbers", total: int, span: tuple[float, float], level: float
) -> tuple[float, float]:
    """Return bounds for the mean of all items, each wrong with probability ``level`` at most.

    For each possible mean a capital is bet on every next item's being larger than that mean would
    have it; a mean under which the bet is fair is refuted where the capital has grown to 1/level
    (Ville's inequality).

    Args:
        seen: The values so far in the order in which they were drawn, float64 (n,), within
            ``span``.
        total: The number of all items, at least n.
        span: The smallest and the largest possible value.
        level: In (0, 1).

    Source: I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting",
    JRSS B 86 (2024) 1-27: the capital process without replacement, and bets from the variance so
    far, here for one horizon.
    """
    reach = span[1] - span[0]
    scaled = (seen - span[0]) / reach
    low = _lower(scaled, total, level)
    high = 1.0 - _lower(1.0 - scaled, total, level)
    return span[0] + reach * low, span[0] + reach * high


def _lower(values: "Numbers", total: int, level: float) -> float:
    """Bisect for the smallest mean within [0, 1] that no capital has refuted."""
    import numpy as np

    n = int(values.size)
    before = np.concatenate(([0.0], values.cumsum()[:-1]))
    bets = _bets(values, level)
    left = total - np.arange(n)
    refuted, kept = float(values.sum()) / total, (float(values.sum()) + total - n) / total
    for _ in range(_BISECTIONS):
        middle = (refuted + kept) / 2.0
        # What the next item is expected to be, if this is the mean of all.
        expected = (total * middle - before) / left
        if _is_refuted(values, expected, bets, level):
            refuted = middle
        else:
            kept = middle
    return refuted


def _bets(values: "Numbers", level: float) -> "Numbers":
    """Return how much is bet on each item, by what was seen before it."""
    import numpy as np

    count = np.arange(1, values.size + 1)
    means = (0.5 + values.cumsum()) / (count + 1)
    variances = (0.25 + ((values - means) ** 2).cumsum()) / (count + 1)
    known = np.concatenate(([0.25], variances[:-1]))
    return np.asarray(np.sqrt(2.0 * math.log(1.0 / level) / (known * HORIZON)), dtype=np.float64)


def _is_refuted(values: "Numbers", expected: "Numbers", bets: "Numbers", level: float) -> bool:
    import numpy as np

    if expected.min() < 0.0:  # more has been seen than there would be
        return True
    if expected.max() > 1.0:
        return False
    # A bet never risks more than the most on an item that is 0, the least that it can be.
    held = np.minimum(bets, _MOST / np.maximum(expected, 1e-12))
    capital = np.log1p(held * (values - expected)).cumsum()
    return bool(capital.max() >= -math.log(level))
