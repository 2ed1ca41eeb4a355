"""Is anything worse than the base at all? One p-value for each comparison, and Holm over them.

A limit asks whether something got worse by more than was allowed. The alarm asks whether anything
got worse beyond chance, however little: it looks at many numbers for the smallest, and so has to
allow for having looked.
"""

from collections.abc import Sequence

from phi3_lora_qa.stats.clusters import are_clustered, cluster_totals

LEVEL = 0.05
"""How often an alarm may go off where nothing differs from the base."""

_FLIPS = 9_999
_MOST_ENUMERATED = 13  # 2^13 is the last that is less than _FLIPS
_CELLS_AT_ONCE = 2_000_000


def worse_p_value(
    improvements: Sequence[float], *, seed: int, clusters: Sequence[str] | None = None
) -> float:
    """Return how often chance alone would make the tuned model look so bad, one-sided.

    If the models answer alike, an item's difference could as well have the other sign. So the
    signs are flipped, all at random: the mean is at most the seen one in this share of flips.
    The test is exact for models that answer alike, and right in large samples for those that
    differ but are as good on average. Of right or wrong answers it is McNemar's exact test.

    Args:
        improvements: Tuned minus base, item by item, with the sign that makes more better.
        seed: Of the flips, where there are too many to go through all.
        clusters: The cluster of each item, empty where it is alone; a cluster is flipped whole.

    Source: R. Fisher, The Design of Experiments (1935), section 21; J. Romano, JASA 85 (1990)
    686-692, for differences that are not symmetric.
    """
    import numpy as np
    from scipy import stats

    values = np.asarray(improvements, dtype=np.float64)
    if clusters is not None and are_clustered(clusters, values.size):
        values, _ = cluster_totals(values, clusters)
    moved = np.sort(values[values != 0.0])
    if not moved.size:
        return 1.0
    sizes, better = np.abs(moved), moved > 0.0
    if np.ptp(sizes) == 0.0:
        worse = int((~better).sum())
        return float(stats.binomtest(worse, moved.size, 0.5, alternative="greater").pvalue)
    # A sum is as low as the seen one where its positive part is; rounding must not part equals.
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
    """Return Holm's adjusted p-values: all below ``LEVEL`` may be believed at once.

    The k-th smallest of K is multiplied by K - k + 1, and none is below a smaller one's. The
    chance of any false alarm is then at most the level, whatever depends on what.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, p_values[number] * (len(p_values) - rank)))
        adjusted[number] = largest
    return adjusted
