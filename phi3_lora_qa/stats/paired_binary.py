"""The exact interval for the difference of two paired proportions (right or wrong answers).

Tango's score statistic orders the outcomes. The error rate is not taken from the normal
approximation, but computed from the trinomial distribution and maximised over the one remaining
nuisance parameter. So the level is correct at every n. Tango's own interval is not exact: with 15
items it passes a model exactly at a margin of 0.10 in 7.7 % of cases instead of 5 %.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from phi3_lora_qa.stats.distributions import binomial_tail, x_log_y

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BISECTIONS = 30
_NUISANCE_STEPS = 128
_NEGLIGIBLE = 1e-14


def tango_score(gained: int, lost: int, n: int, difference: float) -> float:
    """Return Tango's score statistic for the hypothesis that the difference is ``difference``.

    Args:
        gained: Items wrong before and right after.
        lost: Items right before and wrong after.
        n: All items, including the concordant ones.
        difference: Share right after minus share right before, in (-1, 1).

    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908, equations 16 to 20.
    """
    import numpy as np

    return float(_scores(np.array([gained]), np.array([lost]), n, difference)[0])


@lru_cache(maxsize=4096)
def exact_interval(gained: int, lost: int, n: int, confidence: float) -> tuple[float, float]:
    """Return exact one-sided bounds for the difference in the share of right answers.

    Each one-sided test has the level ``(1 - confidence) / 2``; the interval contains all
    differences that neither test rejects. With n = 0 it is (-1, 1).

    Args:
        gained: Items wrong before and right after.
        lost: Items right before and wrong after.
        n: All items, including the concordant ones.
        confidence: Confidence of the two bounds together.

    Source: unconditional exact tests with Tango's statistic: Hsueh, Liu and Chen, Biometrics 57
    (2001) 478-483; Sidik, Statistics in Medicine 22 (2003) 265-278. Inversion of two one-sided
    tests: Chan and Zhang, Biometrics 55 (1999) 1202-1209.
    """
    if n == 0:
        return -1.0, 1.0
    level = (1.0 - confidence) / 2.0
    return _lower(gained, lost, n, level), -_lower(lost, gained, n, level)


def _lower(gained: int, lost: int, n: int, level: float) -> float:
    """Bisect for the smallest difference that is not rejected from above."""
    rejected, kept = -1.0, (gained - lost) / n
    for _ in range(_BISECTIONS):
        middle = (rejected + kept) / 2.0
        if _p_value(gained, lost, n, middle) > level:
            kept = middle
        else:
            rejected = middle
    return rejected


def _p_value(gained: int, lost: int, n: int, difference: float) -> float:
    """Return P(score at least the observed one), maximised over the share of discordant items.

    The score rises with the gains and falls with the losses (Barnard convexity). So for each number
    of losses the tail starts at a smallest number of gains, and is one binomial tail.
    """
    import numpy as np

    losses = np.arange(n + 1)
    fewest = _fewest_gains(losses, n, difference, tango_score(gained, lost, n, difference))
    p_lost = np.linspace(max(0.0, -difference), (1.0 - difference) / 2.0, _NUISANCE_STEPS)[:, None]
    p_gained = np.clip(p_lost + difference, 0.0, 1.0)
    kept = n - losses
    p_losses = np.exp(_log_choose(n) + x_log_y(losses, p_lost) + x_log_y(kept, 1.0 - p_lost))
    given = np.clip(p_gained / np.maximum(1.0 - p_lost, 1e-300), 0.0, 1.0)
    tail = np.zeros_like(p_losses) + (fewest == 0)
    # The tail is expensive to compute, and most numbers of losses have negligible probability.
    row, losing = np.nonzero((p_losses > _NEGLIGIBLE) & (fewest > 0) & (fewest <= kept))
    tail[row, losing] = binomial_tail(fewest[losing], kept[losing], given[row, 0])
    return float((p_losses * tail).sum(axis=1).max())


@lru_cache(maxsize=64)
def _log_choose(n: int) -> "NDArray[np.float64]":
    """Return the logarithm of the binomial coefficients of n."""
    import numpy as np

    log_factorials = np.array([math.lgamma(number + 1) for number in range(n + 1)])
    return np.asarray(log_factorials[-1] - log_factorials - log_factorials[::-1])


def _fewest_gains(
    losses: "NDArray[np.int64]", n: int, difference: float, score: float
) -> "NDArray[np.int64]":
    """Return the fewest gains with at least this score, by losses l; n + 1 - l if none."""
    import numpy as np

    low, high = np.zeros_like(losses), n - losses + 1
    # The tolerance keeps the observed outcome in its own tail despite rounding.
    bar = score - 1e-9 * max(1.0, abs(score)) if math.isfinite(score) else score
    while (low < high).any():
        middle = (low + high) // 2
        reached = _scores(np.minimum(middle, n - losses), losses, n, difference) >= bar
        active = low < high
        high = np.where(active & reached, middle, high)
        low = np.where(active & ~reached, middle + 1, low)
    return low


def _scores(
    gained: "NDArray[np.int64]", lost: "NDArray[np.int64]", n: int, difference: float
) -> "NDArray[np.float64]":
    """Vectorised ``tango_score``; infinite, with the deviation's sign, if the variance is zero."""
    import numpy as np

    a = 2.0 * n
    b = (2.0 * n - gained + lost) * difference - gained - lost
    c = -lost * difference * (1.0 - difference)
    p_lost = (np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = n * (2.0 * p_lost + difference * (1.0 - difference))
    deviation = gained - lost - n * difference
    certain = variance <= 1e-12
    score = deviation / np.sqrt(np.where(certain, 1.0, variance))
    return np.where(certain & (deviation != 0.0), np.copysign(np.inf, deviation), score)
