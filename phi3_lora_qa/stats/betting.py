"""Betting bounds for the mean of a full suite, of which some randomly drawn items are known.

The bounds are valid at every number of items simultaneously, so they may be read at any time. Items
are drawn without replacement: the remaining items are a known part of the suite, so the bounds
meet when all items are drawn.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phi3_lora_qa.stats.clusters import Numbers

HORIZON = 64
"""The number of items for which the bets are tuned, so where the bounds are tightest."""

_LARGEST_STAKE = 0.9
"""The largest share of the capital that one item may lose."""
_BISECTIONS = 40


def betting_bounds(
    seen: "Numbers", total: int, span: tuple[float, float], level: float
) -> tuple[float, float]:
    """Return bounds for the mean of all items, each wrong with probability at most ``level``.

    For each candidate mean, a capital is bet on each next item being larger than that mean
    predicts. If the candidate is the true mean, the bet is fair, and the capital reaches 1/level
    with probability at most ``level`` (Ville's inequality); such candidates are rejected.

    Args:
        seen: The values so far in the order in which they were drawn, float64 (n,), within
            ``span``.
        total: The number of all items, at least n.
        span: The smallest and the largest possible value.
        level: Error probability of each bound, in (0, 1).

    Returns:
        The lower and the upper bound.

    Source: I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting",
    JRSS B 86 (2024) 1-27: the capital process without replacement, with bets from the variance so
    far, for one horizon.
    """
    reach = span[1] - span[0]
    scaled = (seen - span[0]) / reach
    low = _lower(scaled, total, level)
    high = 1.0 - _lower(1.0 - scaled, total, level)
    return span[0] + reach * low, span[0] + reach * high


def _lower(values: "Numbers", total: int, level: float) -> float:
    """Bisect for the smallest mean in [0, 1] that is not rejected."""
    import numpy as np

    n = int(values.size)
    before = np.concatenate(([0.0], values.cumsum()[:-1]))
    bets = _bets(values, level)
    left = total - np.arange(n)
    rejected, kept = float(values.sum()) / total, (float(values.sum()) + total - n) / total
    for _ in range(_BISECTIONS):
        middle = (rejected + kept) / 2.0
        # The expected value of the next item, if this is the mean of all items.
        expected = (total * middle - before) / left
        if _is_rejected(values, expected, bets, level):
            rejected = middle
        else:
            kept = middle
    return rejected


def _bets(values: "Numbers", level: float) -> "Numbers":
    """Return the bet on each item, which depends only on the items before it."""
    import numpy as np

    count = np.arange(1, values.size + 1)
    means = (0.5 + values.cumsum()) / (count + 1)
    variances = (0.25 + ((values - means) ** 2).cumsum()) / (count + 1)
    known = np.concatenate(([0.25], variances[:-1]))
    return np.asarray(np.sqrt(2.0 * math.log(1.0 / level) / (known * HORIZON)), dtype=np.float64)


def _is_rejected(values: "Numbers", expected: "Numbers", bets: "Numbers", level: float) -> bool:
    import numpy as np

    if expected.min() < 0.0:  # the items seen already sum to more than this mean allows
        return True
    if expected.max() > 1.0:
        return False
    # An item of 0, the smallest value, loses at most the largest stake.
    stakes = np.minimum(bets, _LARGEST_STAKE / np.maximum(expected, 1e-12))
    capital = np.log1p(stakes * (values - expected)).cumsum()
    return bool(capital.max() >= -math.log(level))
