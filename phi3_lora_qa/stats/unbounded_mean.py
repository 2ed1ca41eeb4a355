"""Bounds for the mean of an unbounded score, such as a loss: the widest of three intervals.

No interval for an unbounded mean has the right level everywhere. BCa is too narrow below about
fifty items, Student's t under skewness, and the bootstrap-t under heavy tails; when one is too
narrow, another is wider. A gate may require more items than needed, so the widest bounds are used.
"""

import math
from typing import TYPE_CHECKING

from phi3_lora_qa.stats.clusters import degrees_of_freedom, standard_error

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

    Sources: BCa: Efron, JASA 82 (1987) 171-185, through ``scipy.stats.bootstrap``. Bootstrap-t:
    Hall, Annals of Statistics 16 (1988) 927-953; of clusters: A. Cameron, J. Gelbach, D. Miller,
    Review of Economics and Statistics 90 (2008) 414-427.
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
    bounds = (
        _student(sums, sizes, confidence),
        _bootstrap_t(sums, sizes, confidence, seed),
        _bca(sums, sizes, confidence, seed),
    )
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _student(sums: "Numbers", sizes: "Numbers", confidence: float) -> tuple[float, float]:
    from scipy import stats

    mean = float(_mean(sums, sizes))
    quantile = float(stats.t.ppf((1.0 + confidence) / 2.0, degrees_of_freedom(sizes)))
    reach = quantile * float(standard_error(sums, sizes))
    return mean - reach, mean + reach


def _bootstrap_t(
    sums: "Numbers", sizes: "Numbers", confidence: float, seed: int
) -> tuple[float, float]:
    import numpy as np

    n, mean = sums.size, float(_mean(sums, sizes))
    generator = np.random.default_rng(seed)
    rows = max(1, _CELLS_AT_ONCE // n)
    ratios = []
    for start in range(0, _RESAMPLES, rows):
        drawn = generator.integers(0, n, (min(rows, _RESAMPLES - start), n))
        sample, of = sums[drawn], sizes[drawn] if np.ptp(sizes) else sizes
        error = standard_error(sample, of)
        spread = error > 0.0
        ratios.append((_mean(sample, of)[spread] - mean) / error[spread])
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(ratios), (tail, 1.0 - tail))
    scale = float(standard_error(sums, sizes))
    return mean - float(high) * scale, mean - float(low) * scale


def _bca(sums: "Numbers", sizes: "Numbers", confidence: float, seed: int) -> tuple[float, float]:
    import warnings

    import numpy as np
    from scipy import stats

    with warnings.catch_warnings():
        # Degenerate data has NaN bounds, which are replaced by the mean, so the other two decide.
        warnings.simplefilter("ignore")
        uneven = bool(np.ptp(sizes))
        found = stats.bootstrap(
            (sums, sizes) if uneven else (sums / sizes,),
            _mean if uneven else np.mean,
            paired=uneven,
            confidence_level=confidence,
            method="BCa",
            n_resamples=_RESAMPLES,
            batch=max(1, _CELLS_AT_ONCE // sums.size),
            rng=np.random.default_rng(seed),
        ).confidence_interval
    mean = float(_mean(sums, sizes))
    low, high = float(found.low), float(found.high)
    return (low if math.isfinite(low) else mean), (high if math.isfinite(high) else mean)


def _mean(sums: "Numbers", sizes: "Numbers", axis: int = -1) -> "Numbers":
    import numpy as np

    return np.asarray(sums.sum(axis=axis) / sizes.sum(axis=axis))
