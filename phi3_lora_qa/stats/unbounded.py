"""Bounds for the mean of a score without limits, such as a loss: three intervals, the widest kept.

No interval for an unbounded mean holds its level everywhere. BCa is too narrow below some fifty
items, Student's t under skewness, the bootstrap-t under heavy tails: where one errs, another is
wider. A gate may err on the side of "more items, please", so the widest bound decides.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_ITEMS = 10
"""Below this, simulation found every interval here too narrow under skewness: no bounds at all."""

MIN_EQUAL_ITEMS = 29
"""If all differences are equal: the fewest items that show, at 95 %, that at least nine in ten of
all items behave so (0.9^29 < 0.05)."""

_ROUNDING = 1e-12
_RESAMPLES = 5_000
_CELLS_AT_ONCE = 2_000_000


def unbounded_interval(
    values: "NDArray[np.float64]", confidence: float, seed: int
) -> tuple[float, float]:
    """Return one-sided bounds for the mean, each at ``(1 + confidence) / 2``.

    Infinite below ``MIN_ITEMS`` items, and for equal values below ``MIN_EQUAL_ITEMS``: a spread of
    zero in a few items says nothing about the next.

    Sources: BCa: Efron, JASA 82 (1987) 171-185, through ``scipy.stats.bootstrap``. Bootstrap-t:
    Hall, Annals of Statistics 16 (1988) 927-953.
    """
    import numpy as np

    n = values.size
    # What differs by rounding only is equal; resampling it would divide by nothing.
    equal = n > 0 and bool(np.ptp(values) <= _ROUNDING * max(1.0, float(np.abs(values).max())))
    if n < (MIN_EQUAL_ITEMS if equal else MIN_ITEMS):
        return -math.inf, math.inf
    if equal:
        return float(values.min()), float(values.max())
    bounds = (
        _student(values, confidence),
        _bootstrap_t(values, confidence, seed),
        _bca(values, confidence, seed),
    )
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _student(values: "NDArray[np.float64]", confidence: float) -> tuple[float, float]:
    from scipy import stats

    reach = float(stats.t.ppf((1.0 + confidence) / 2.0, values.size - 1)) * _standard_error(values)
    return float(values.mean()) - reach, float(values.mean()) + reach


def _bootstrap_t(
    values: "NDArray[np.float64]", confidence: float, seed: int
) -> tuple[float, float]:
    import numpy as np

    n, mean = values.size, float(values.mean())
    generator = np.random.default_rng(seed)
    rows = max(1, _CELLS_AT_ONCE // n)
    ratios = []
    for start in range(0, _RESAMPLES, rows):
        count = min(rows, _RESAMPLES - start)
        sample = values[generator.integers(0, n, (count, n))]
        error = sample.std(axis=1, ddof=1) / math.sqrt(n)
        spread = error > 0.0
        ratios.append((sample.mean(axis=1)[spread] - mean) / error[spread])
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(ratios), (tail, 1.0 - tail))
    scale = _standard_error(values)
    return mean - float(high) * scale, mean - float(low) * scale


def _bca(values: "NDArray[np.float64]", confidence: float, seed: int) -> tuple[float, float]:
    import warnings

    import numpy as np
    from scipy import stats

    with warnings.catch_warnings():
        # Degenerate data ends in NaN bounds, which are dropped below in favour of the wider two.
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (values,),
            np.mean,
            confidence_level=confidence,
            method="BCa",
            n_resamples=_RESAMPLES,
            batch=max(1, _CELLS_AT_ONCE // values.size),
            rng=np.random.default_rng(seed),
        ).confidence_interval
    mean = float(values.mean())
    low, high = float(found.low), float(found.high)
    return (low if math.isfinite(low) else mean), (high if math.isfinite(high) else mean)


def _standard_error(values: "NDArray[np.float64]") -> float:
    return float(values.std(ddof=1)) / math.sqrt(values.size)
