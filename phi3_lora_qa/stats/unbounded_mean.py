"""Bounds for the mean of an unbounded score, such as a loss: the widest of three intervals.

No interval for an unbounded mean has the right level everywhere. BCa is too narrow below about
fifty items, Student's t under skewness, and the bootstrap-t under heavy tails; when one is too
narrow, another is wider. A gate may require more items than needed, so the widest bounds are used.
"""

import math
from typing import TYPE_CHECKING

from phi3_lora_qa.stats.clusters import degrees_of_freedom, standard_error
from phi3_lora_qa.stats.distributions import normal_quantile, normal_tail, student_quantile

if TYPE_CHECKING:
    from phi3_lora_qa.stats.clusters import Numbers

MIN_ITEMS = 10
"""With fewer items the bounds are infinite: in simulations all intervals here were too narrow."""

MIN_EQUAL_ITEMS = 29
"""If all differences are equal: the fewest items that show, at 95 %, that at least nine in ten of
all items have that difference (0.9^29 < 0.05)."""

_ROUNDING = 1e-12
_RESAMPLES = 5_000
_CELLS_AT_ONCE = 2_000_000


def unbounded_interval(
    sums: "Numbers", confidence: float, seed: int, sizes: "Numbers | None" = None
) -> tuple[float, float]:
    """Return one-sided bounds for the mean over items, each at ``(1 + confidence) / 2``.

    They are infinite below ``MIN_ITEMS`` items, and for equal values below ``MIN_EQUAL_ITEMS``,
    because a few equal items do not show that all items are equal. The same numbers apply to
    clusters.

    Args:
        sums: Each item's value, or each cluster's sum, float64, shape (n,).
        confidence: Confidence of the two bounds together.
        seed: Seed of the resampling, which draws whole clusters.
        sizes: Each cluster's number of items; None if there are no clusters.

    Returns:
        The lower and the upper bound.

    Sources: BCa: Efron, JASA 82 (1987) 171-185. Bootstrap-t: Hall, Annals of Statistics 16 (1988)
    927-953; of clusters: A. Cameron, J. Gelbach, D. Miller, Review of Economics and Statistics 90
    (2008) 414-427.
    """
    import numpy as np

    sizes = np.ones_like(sums) if sizes is None else sizes
    n, values = sums.size, sums / sizes
    # Values that differ only by rounding are equal; resampling them would divide by zero.
    equal = n > 0 and bool(np.ptp(values) <= _ROUNDING * max(1.0, float(np.abs(values).max())))
    if n < (MIN_EQUAL_ITEMS if equal else MIN_ITEMS):
        return -math.inf, math.inf
    if equal:
        return float(values.min()), float(values.max())
    means, errors = _resample(sums, sizes, seed)
    bounds = (
        _student(sums, sizes, confidence),
        _bootstrap_t(sums, sizes, confidence, means, errors),
        _bca(sums, sizes, confidence, means),
    )
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _resample(sums: "Numbers", sizes: "Numbers", seed: int) -> tuple["Numbers", "Numbers"]:
    """Return the mean and the standard error of every resample of the clusters."""
    import numpy as np

    n, generator = sums.size, np.random.default_rng(seed)
    rows = max(1, _CELLS_AT_ONCE // n)
    means, errors = [], []
    for start in range(0, _RESAMPLES, rows):
        drawn = generator.integers(0, n, (min(rows, _RESAMPLES - start), n))
        sample, of = sums[drawn], sizes[drawn] if np.ptp(sizes) else sizes
        means.append(_mean(sample, of))
        errors.append(standard_error(sample, of))
    return np.concatenate(means), np.concatenate(errors)


def _student(sums: "Numbers", sizes: "Numbers", confidence: float) -> tuple[float, float]:
    mean = float(_mean(sums, sizes))
    quantile = student_quantile(confidence, float(degrees_of_freedom(sizes)))
    reach = quantile * float(standard_error(sums, sizes))
    return mean - reach, mean + reach


def _bootstrap_t(
    sums: "Numbers", sizes: "Numbers", confidence: float, means: "Numbers", errors: "Numbers"
) -> tuple[float, float]:
    import numpy as np

    mean, spread = float(_mean(sums, sizes)), errors > 0.0
    tail = (1.0 - confidence) / 2.0
    ratios = (means[spread] - mean) / errors[spread]
    low, high = np.quantile(ratios, (tail, 1.0 - tail))
    scale = float(standard_error(sums, sizes))
    return mean - float(high) * scale, mean - float(low) * scale


def _bca(
    sums: "Numbers", sizes: "Numbers", confidence: float, means: "Numbers"
) -> tuple[float, float]:
    """Return the BCa interval; the mean for degenerate data, so that the others decide.

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), equations 14.9 to
    14.15.
    """
    import numpy as np

    mean, n = float(_mean(sums, sizes)), sums.size
    without = (sums.sum() - sums) / (sizes.sum() - sizes)  # the jackknife's means
    pull = (n - 1.0) / n * (without.mean() - without)
    with np.errstate(all="ignore"):
        acceleration = float((pull**3).sum() / (6.0 * (pull**2).sum() ** 1.5))
    below = ((means < mean).mean() + (means <= mean).mean()) / 2.0
    bias = normal_quantile(float(below))
    found = []
    for tail in ((1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0):
        reach = bias + normal_quantile(tail)
        shrink = 1.0 - acceleration * reach
        at = bias + reach / shrink if shrink else math.nan
        found.append(float(np.quantile(means, normal_tail(at))) if math.isfinite(at) else mean)
    return found[0], found[1]


def _mean(sums: "Numbers", sizes: "Numbers", axis: int = -1) -> "Numbers":
    import numpy as np

    return np.asarray(sums.sum(axis=axis) / sizes.sum(axis=axis))
