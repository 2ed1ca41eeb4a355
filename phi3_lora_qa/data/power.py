"""The power of a suite: the smallest difference that a paired test on its items detects.

A one-sided test at 5 % detects it four times out of five. Source: E. Miller, "Adding error bars to
evals", arXiv 2411.00640, section 5, for paired differences without resampling:
``(z_0.95 + z_0.80) s / sqrt(n)`` with the standard deviation ``s`` of a paired difference.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

LEVEL, POWER = 0.05, 0.80


@dataclass(frozen=True, kw_only=True)
class PowerAssumptions:
    """How often, and by how much, base and tuned model are assumed to differ on an item.

    ``discordant`` is the share of items that the two score differently, in (0, 1]; ``deviation``
    the standard deviation of an item's change of loss, in nats per token.
    """

    discordant: float = 0.10
    deviation: float = 0.30


def detectable_share(n: float, discordant: float) -> float:
    """Return the smallest detectable change of a share, such as of correct answers.

    The variance of a paired difference of zeros and ones is at most the share of the items that
    the two models score differently (Connett, Smith and McHugh, Statistics in Medicine 6, 1987).
    That share is at least the change itself; where n is so small that it would be less, it is set
    to the change.

    Args:
        n: Independent items.
        discordant: The assumed share of items on which the models differ, in (0, 1].
    """
    z = _quantiles()
    change = z * math.sqrt(discordant / n)
    return min(1.0, change if change <= discordant else z**2 / n)


def detectable_mean(n: float, deviation: float) -> float:
    """Return the smallest detectable change of a mean, in the unit of ``deviation``.

    Args:
        n: Independent items.
        deviation: The assumed standard deviation of the paired differences.
    """
    return _quantiles() * deviation / math.sqrt(n)


def independent_items(clusters: Iterable[str]) -> float:
    """Return how many independent items the items are worth if all of a cluster are alike.

    Kish's effective size with an intraclass correlation of 1, the worst case:
    ``n^2 / sum of squared cluster sizes``. An item without a cluster is a cluster of its own.

    Args:
        clusters: The cluster of every item, empty for none.
    """
    sizes = Counter(clusters)
    alone = sizes.pop("", 0)
    squares = alone + sum(size**2 for size in sizes.values())
    return (alone + sum(sizes.values())) ** 2 / squares if squares else 0.0


def _quantiles() -> float:
    """Return the sum of the normal quantiles of the level and the power."""
    from statistics import NormalDist  # imports random; every command imports this module

    return NormalDist().inv_cdf(1 - LEVEL) + NormalDist().inv_cdf(POWER)
