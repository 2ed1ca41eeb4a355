"""Bounds for the mean of scores within a known range, such as F1 within [0, 1].

A bootstrap sees only the values in the sample: if one item in fifty collapses, a third of all
samples of 50 do not contain one, and their bootstrap intervals are far too narrow. This bound
allows for unseen values at the end of the range. For scores of 0 or 1 it is Clopper and Pearson's.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DRAWS = 10_000
_CELLS_AT_ONCE = 2_000_000


def bounded_interval(
    values: "NDArray[np.float64]", span: tuple[float, float], confidence: float, seed: int
) -> tuple[float, float]:
    """Return one-sided bounds for the mean, each at ``(1 + confidence) / 2``.

    Args:
        values: The sample, float64, shape (n,), every value within ``span``.
        span: The smallest and the largest possible value.
        confidence: Confidence of the two bounds together.
        seed: Seed of the Monte Carlo draw of uniform order statistics.

    Returns:
        The lower and the upper bound; the span if there are no values.

    Source: E. Learned-Miller and P. Thomas, A new confidence interval for the mean of a bounded
    random variable, arXiv 1905.06208, definition 1. Coverage is proved for special cases and
    conjectured in general; no counterexample is known (Phan et al., ICML 2021, arXiv 2106.03163).
    """
    import numpy as np

    low, high = span
    if values.size == 0:
        return low, high
    ordered = np.sort(values)
    upper = _upper(ordered, high, confidence, seed)
    return -_upper(-ordered[::-1], -low, confidence, seed), upper


def _upper(ordered: "NDArray[np.float64]", highest: float, confidence: float, seed: int) -> float:
    """Return the quantile of ``highest - sum(u_(i) (z_(i+1) - z_(i)))`` over uniform u_(i)."""
    import numpy as np

    n = ordered.size
    steps = np.diff(ordered, append=highest)
    generator = np.random.default_rng(seed)
    rows = max(1, _CELLS_AT_ONCE // (n + 1))
    sums = []
    for start in range(0, _DRAWS, rows):
        # Uniform order statistics are normalised partial sums of exponentials.
        spacings = generator.standard_exponential((min(rows, _DRAWS - start), n + 1))
        partial = spacings.cumsum(axis=1)
        sums.append((partial[:, :-1] @ steps) / partial[:, -1])
    return float(highest - np.quantile(np.concatenate(sums), (1.0 - confidence) / 2.0))
