"""Tests for any regression: one p-value for each comparison, adjusted by Holm's method.

A limit asks whether a metric got worse by more than is allowed. The regression test asks whether
any metric got worse by more than chance, however little. It searches many p-values for the
smallest, so they must be adjusted for the number of comparisons.
"""

from collections.abc import Sequence

from phi3_lora_qa.stats.clusters import are_clustered, cluster_totals
from phi3_lora_qa.stats.distributions import coin_tail

LEVEL = 0.05
"""Largest probability of any false alarm if the tuned model equals the base."""

_FLIPS = 9_999
_MOST_ENUMERATED = 13  # 2^13 is the largest power of two below _FLIPS
_CELLS_AT_ONCE = 2_000_000


def worse_p_value(
    improvements: Sequence[float], *, seed: int, clusters: Sequence[str] | None = None
) -> float:
    """Return the one-sided p-value that the tuned model is worse than the base.

    A sign-flip test: if both models answer alike, each difference could just as well have the
    opposite sign, and the p-value is the share of random sign flips whose mean is at most the
    observed one.
    The test is exact for models that answer alike, and asymptotically valid for models that differ
    but are equally good on average. For scores of 0 or 1 it is McNemar's exact test.

    Args:
        improvements: Tuned minus base for each item, with the sign that makes larger better.
        seed: Seed of the flips, if there are too many to enumerate.
        clusters: The cluster of each item, empty for none; clusters are flipped as a whole.

    Returns:
        The p-value, in (0, 1]; 1 if nothing changed.

    Source: R. Fisher, The Design of Experiments (1935), section 21; J. Romano, JASA 85 (1990)
    686-692, for differences that are not symmetric.
    """
    import numpy as np

    values = np.asarray(improvements, dtype=np.float64)
    if clusters is not None and are_clustered(clusters, values.size):
        values, _ = cluster_totals(values, clusters)
    moved = np.sort(values[values != 0.0])
    if not moved.size:
        return 1.0
    sizes, better = np.abs(moved), moved > 0.0
    if np.ptp(sizes) == 0.0:
        worse = int((~better).sum())
        return coin_tail(worse, moved.size)
    # A sum is at most the observed one if its positive part is; the tolerance allows for rounding.
    seen = float(sizes[better].sum()) + 1e-12 * float(sizes.sum())
    if moved.size <= _MOST_ENUMERATED:
        flips = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
        return float((flips @ sizes <= seen).mean())
    generator, low = np.random.default_rng(seed), 0
    rows = max(1, _CELLS_AT_ONCE // moved.size)
    for start in range(0, _FLIPS, rows):
        count = min(rows, _FLIPS - start)
        low += int((generator.integers(0, 2, (count, moved.size)) @ sizes <= seen).sum())
    return (1 + low) / (1 + _FLIPS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order of the given ones.

    The k-th smallest of K is multiplied by K - k + 1, and none is below that of a smaller one.
    If all below a level are rejected, the probability of any false alarm is at most that level,
    regardless of the dependence between the tests.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, p_values[number] * (len(p_values) - rank)))
        adjusted[number] = largest
    return adjusted
