"""Items that belong together: several questions about one document are not several observations.

A cluster is then what was drawn, and its sum and its size are what is resampled. Without clusters
every item is a cluster of its own, and the formulas are the familiar ones.
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
    """Tell whether any cluster holds more than one of the ``n`` items.

    Args:
        clusters: One id for each item, empty for an item that is alone; None where there are none.
        n: The number of items.

    Raises:
        DataError: There is not one id for each item.
    """
    if clusters is None:
        return False
    if len(clusters) != n:
        raise DataError(f"{len(clusters)} cluster ids for {n} items; give one for each, or none")
    named = [cluster for cluster in clusters if cluster]
    return len(set(named)) < len(named)


def cluster_totals(values: "Numbers", clusters: Sequence[str]) -> tuple["Numbers", "Numbers"]:
    """Return each cluster's sum and size, float64 (clusters,), in an order that no item's changes.

    Args:
        values: One for each item.
        clusters: One id for each item; an empty one makes a cluster of its own.
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

    With the residual total e_c = sum_c - size_c mean and the share h_c = size_c / n of a cluster::

        SE^2 = 1/n^2 sum_c e_c^2 / (1 - h_c)

    For clusters of one item this is s^2 / n.

    Args:
        sums: Each cluster's sum, float64 (..., clusters).
        sizes: Each cluster's number of items, of the same shape.

    Source: R. Bell, D. McCaffrey, Survey Methodology 28 (2002) 169-181, for a model that has
    nothing but a mean.
    """
    import numpy as np

    n = sizes.sum(axis=-1, keepdims=True)
    residuals = sums - sizes * (sums.sum(axis=-1, keepdims=True) / n)
    variance = (residuals**2 / (1.0 - sizes / n)).sum(axis=-1)
    return np.asarray(np.sqrt(variance) / n[..., 0])


def degrees_of_freedom(sizes: "Numbers") -> float:
    """Return Satterthwaite's degrees of freedom of CR2; clusters - 1 where all have one size.

    They depend on how items of a cluster vary together. The fewer are returned of the two ends:
    independently (the variance of a cluster's sum is its size), or as one (its square).

    Source: Bell and McCaffrey 2002 (see ``standard_error``); J. Pustejovsky, E. Tipton, Journal of
    Business & Economic Statistics 36 (2018) 672-683, equation 10.
    """
    n = float(sizes.sum())
    share = sizes / n
    weight = 1.0 / (1.0 - share)

    def satterthwaite(variance: "Numbers") -> float:
        # CR2 is sum_c weight_c r_c^2 over residual totals r, whose covariance is D + U, with the
        # diagonal D = variance and U = total s s' - s v' - v s'. So tr and tr of the square are:
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


def linearised(
    sums: "Numbers", sizes: "Numbers", span: tuple[float, float]
) -> tuple["Numbers", tuple[float, float]]:
    """Return one value for each cluster whose plain mean is the mean over items, and their range.

    A cluster's deviation from the mean counts by its size, so that the range reaches as far as
    the largest cluster could. For clusters of one size the values are the clusters' means.

    Args:
        sums: Each cluster's sum, float64 (clusters,).
        sizes: Each cluster's number of items.
        span: The range of an item's value.

    Source: the linearised ratio estimator, W. Cochran, Sampling Techniques (1977), section 6.3.
    """
    import numpy as np

    mean = float(sums.sum() / sizes.sum())
    relative = sizes / sizes.mean()
    largest = float(relative.max())
    reach = mean + largest * (span[0] - mean), mean + largest * (span[1] - mean)
    return np.clip(mean + relative * (sums / sizes - mean), *reach), reach
