"""Clustered items, such as several questions about one document, are not independent observations.

The clusters are then the observations: their sums and sizes are resampled. Without clusters every
item is its own cluster, and the formulas reduce to the usual ones.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]


def are_clustered(clusters: Sequence[str] | None, n: int) -> bool:
    """Return whether any cluster has more than one of the ``n`` items.

    Args:
        clusters: One id for each item, empty for an item without a cluster; None for no clusters.
        n: The number of items.

    Raises:
        DataError: The number of ids is not ``n``.
    """
    if clusters is None:
        return False
    if len(clusters) != n:
        raise DataError(f"{len(clusters)} cluster ids for {n} items; pass one for each, or none")
    named = [cluster for cluster in clusters if cluster]
    return len(set(named)) < len(named)


def cluster_totals(values: "Numbers", clusters: Sequence[str]) -> tuple["Numbers", "Numbers"]:
    """Return each cluster's sum and size, in an order that does not depend on the items' order.

    Args:
        values: One for each item, float64 (n,).
        clusters: One id for each item; an item with an empty id is its own cluster.

    Returns:
        The sums and the sizes, each float64 (clusters,).
    """
    import numpy as np

    members: dict[object, list[float]] = {}
    for number, (value, cluster) in enumerate(zip(values.tolist(), clusters, strict=True)):
        members.setdefault(cluster or number, []).append(value)
    sums = np.array([math.fsum(group) for group in members.values()], dtype=np.float64)
    sizes = np.array([len(group) for group in members.values()], dtype=np.float64)
    order = np.lexsort((sizes, sums))
    return sums[order], sizes[order]


def standard_error(sums: "Numbers", sizes: "Numbers") -> "Numbers":
    """Return the cluster-robust standard error CR2 of the mean over items.

    With each cluster's residual total e_c = sum_c - size_c mean and share h_c = size_c / n::

        SE^2 = 1/n^2 sum_c e_c^2 / (1 - h_c)

    For clusters of one item this is s^2 / n.

    Args:
        sums: Each cluster's sum, float64 (..., clusters).
        sizes: Each cluster's number of items, of the same shape.

    Returns:
        The standard error, float64 (...).

    Source: R. Bell, D. McCaffrey, Survey Methodology 28 (2002) 169-181, for a model with only a
    mean.
    """
    import numpy as np

    n = sizes.sum(axis=-1, keepdims=True)
    residuals = sums - sizes * (sums.sum(axis=-1, keepdims=True) / n)
    variance = (residuals**2 / (1.0 - sizes / n)).sum(axis=-1)
    return np.asarray(np.sqrt(variance) / n[..., 0])


def degrees_of_freedom(sizes: "Numbers") -> float:
    """Return Satterthwaite's degrees of freedom of CR2; clusters - 1 if all sizes are equal.

    They depend on the correlation within clusters. The smaller number of the two extremes is
    returned: no correlation (the variance of a cluster's sum is proportional to its size), and
    full correlation (to the size squared).

    Args:
        sizes: Each cluster's number of items, float64 (clusters,).

    Source: Bell and McCaffrey 2002 (see ``standard_error``); J. Pustejovsky, E. Tipton, Journal of
    Business & Economic Statistics 36 (2018) 672-683, equation 10.
    """
    n = float(sizes.sum())
    share = sizes / n
    weight = 1.0 / (1.0 - share)

    def satterthwaite(variance: "Numbers") -> float:
        # CR2 is sum_c weight_c r_c^2 over residual totals r with covariance D + U, where
        # D = diag(variance) and U = total s s' - s v' - v s'. Its trace and squared trace are:
        total = float(variance.sum())
        diagonal = total * share**2 - 2.0 * share * variance
        trace = float((weight * (variance + diagonal)).sum())
        ss, vv, sv = (
            float((weight * left * right).sum())
            for left, right in ((share, share), (variance, variance), (share, variance))
        )
        low_rank = 2.0 * ss * vv + 2.0 * sv**2 - 4.0 * total * ss * sv + (total * ss) ** 2
        square = float((weight**2 * variance * (variance + 2.0 * diagonal)).sum()) + low_rank
        return trace**2 / square

    return min(satterthwaite(sizes), satterthwaite(sizes**2))


def linearize_ratio(
    sums: "Numbers", sizes: "Numbers", span: tuple[float, float]
) -> tuple["Numbers", tuple[float, float]]:
    """Return one value per cluster, such that their mean is the mean over items, and their range.

    A cluster's deviation from the mean is weighted by its size, so the range is as wide as the
    largest cluster allows. For clusters of equal size the values are the clusters' means.

    Args:
        sums: Each cluster's sum, float64 (clusters,).
        sizes: Each cluster's number of items, float64 (clusters,).
        span: The range of an item's value.

    Returns:
        The values, float64 (clusters,), and their smallest and largest possible value.

    Source: the linearised ratio estimator, W. Cochran, Sampling Techniques (1977), section 6.3.
    """
    import numpy as np

    mean = float(sums.sum() / sizes.sum())
    relative = sizes / sizes.mean()
    largest = float(relative.max())
    reach = mean + largest * (span[0] - mean), mean + largest * (span[1] - mean)
    return np.clip(mean + relative * (sums / sizes - mean), *reach), reach
