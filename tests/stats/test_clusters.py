"""Clusters: standard errors, degrees of freedom, and bounds whose level is right for few."""

import math

import numpy as np
import pytest
from scipy import linalg, stats
from statsmodels.regression.linear_model import OLS

from phi3_lora_qa.errors import DataError
from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.clusters import (
    are_clustered,
    cluster_totals,
    degrees_of_freedom,
    linearize_ratio,
    standard_error,
)
from phi3_lora_qa.stats.paired import compare, decide, items_needed

SIZES = (1, 2, 2, 3, 5, 8, 8, 9, 12, 20)


def clustered(
    generator: np.random.Generator, sizes: tuple[int, ...], within: float = 0.3
) -> tuple[np.ndarray, list[str]]:
    """Return values that are correlated within clusters, with mean 0, and their clusters."""
    names = [f"c{i}" for i, size in enumerate(sizes) for _ in range(size)]
    shared = np.repeat(generator.normal(size=len(sizes)), sizes)
    return shared + generator.normal(0.0, within, size=len(names)), names


def test_equal_sizes_agree_with_statsmodels_cluster_robust_standard_error() -> None:
    values, names = clustered(np.random.default_rng(0), (4,) * 15)
    robust = OLS(values, np.ones_like(values)).fit(
        cov_type="cluster", cov_kwds={"groups": np.unique(names, return_inverse=True)[1]}
    )
    assert standard_error(*cluster_totals(values, names)) == pytest.approx(robust.bse[0])


def test_single_items_have_the_usual_standard_error_and_degrees_of_freedom() -> None:
    values = np.random.default_rng(0).normal(size=30)
    sizes = np.ones(30)
    assert standard_error(values, sizes) == pytest.approx(stats.sem(values))
    assert degrees_of_freedom(sizes) == pytest.approx(29)
    assert degrees_of_freedom(np.full(12, 7.0)) == pytest.approx(11)


def test_unequal_sizes_agree_with_the_matrix_definition_of_cr2() -> None:
    values, names = clustered(np.random.default_rng(1), SIZES)
    n, total = len(values), 0.0
    for name in dict.fromkeys(names):
        residuals = (values - values.mean())[[other == name for other in names]]
        size = len(residuals)
        adjusted = linalg.inv(linalg.sqrtm(np.eye(size) - np.full((size, size), 1 / n)))
        total += float((np.ones(size) @ adjusted @ residuals) ** 2) / n**2
    assert standard_error(*cluster_totals(values, names)) == pytest.approx(math.sqrt(total))


def test_unequal_sizes_agree_with_the_matrix_definition_of_the_degrees_of_freedom() -> None:
    sizes = np.array(SIZES, dtype=float)
    share = sizes / sizes.sum()
    residual = np.eye(len(sizes)) - np.outer(share, np.ones(len(sizes)))

    def matched(variance: np.ndarray) -> float:
        form = np.diag(1 / (1 - share)) @ residual @ np.diag(variance) @ residual.T
        return float(np.trace(form) ** 2 / np.trace(form @ form))

    assert degrees_of_freedom(sizes) == pytest.approx(min(matched(sizes), matched(sizes**2)))
    assert degrees_of_freedom(sizes) < len(sizes) - 1


def test_linearized_values_have_the_mean_over_items_and_are_within_their_range() -> None:
    generator = np.random.default_rng(2)
    values = generator.uniform(size=sum(SIZES))
    sums, sizes = cluster_totals(values, clustered(generator, SIZES)[1])
    found, (low, high) = linearize_ratio(sums, sizes, (0.0, 1.0))
    assert found.mean() == pytest.approx(values.mean())
    assert low <= found.min() <= found.max() <= high
    even, span = linearize_ratio(np.array([1.0, 3.0]), np.array([4.0, 4.0]), (0.0, 1.0))
    assert (list(even), span) == ([0.25, 0.75], (0.0, 1.0))


def test_clusters_of_single_items_are_ignored() -> None:
    assert are_clustered(["a", "", "a"], 3)
    assert not are_clustered(["a", "", "b", ""], 4)
    assert not are_clustered(None, 4)
    with pytest.raises(DataError, match="2 cluster ids for 3 items"):
        are_clustered(["a", "b"], 3)
    base, tuned = [0.0, 1.0, 1.0, 0.0] * 5, [1.0, 1.0, 0.0, 0.0] * 5
    alone = [f"c{i}" for i in range(19)] + [""]
    assert compare(base, tuned, seed=0, binary=True, clusters=alone) == compare(
        base, tuned, seed=0, binary=True
    )


@pytest.mark.parametrize("kind", ["binary", "bounded", "unbounded"])
def test_few_clusters_decide_nothing_regardless_of_their_size(kind: str) -> None:
    span = (0.0, 1.0) if kind == "bounded" else None
    for count in (1, 2, 9):
        names = [f"c{i % count}" for i in range(90)]
        found = compare(
            [0.0] * 90, [1.0] * 90, seed=0, binary=kind == "binary", span=span, clusters=names
        )
        assert decide(found, "improve_by", 0.0, True) is Outcome.INCONCLUSIVE
        assert decide(found, "at_least", 0.1, True) is Outcome.INCONCLUSIVE
        assert found.observations == count
        assert "too few" in found.method
        # Ten clusters of as many items.
        assert items_needed(found, "improve_by", 0.0, True) == math.ceil(10 * 90 / count)


@pytest.mark.parametrize("kind", ["binary", "bounded", "unbounded"])
def test_the_result_does_not_depend_on_the_order(kind: str) -> None:
    generator = np.random.default_rng(3)
    shared, names = clustered(generator, SIZES * 2)
    base = generator.uniform(size=len(names))
    tuned = np.clip(base + 0.1 * shared, 0.0, 1.0)
    if kind == "binary":
        base, tuned = base.round(), tuned.round()
    span = (0.0, 1.0) if kind == "bounded" else None
    order = generator.permutation(len(names))
    first, second = (
        compare(
            list(base[rows]),
            list(tuned[rows]),
            seed=1,
            binary=kind == "binary",
            span=span,
            clusters=[names[row] for row in rows],
        )
        for rows in (np.arange(len(names)), order)
    )
    assert first == second
    assert first.low < first.difference < first.high


def test_repeated_items_of_a_cluster_do_not_narrow_the_interval() -> None:
    """Each value repeated ten times has the interval of the values, not one a third as wide."""
    values = np.random.default_rng(4).normal(size=40)
    names = [f"c{i}" for i in range(40) for _ in range(10)]
    once = compare([0.0] * 40, list(values), seed=0, binary=False)
    tenfold = compare(
        [0.0] * 400, list(np.repeat(values, 10)), seed=0, binary=False, clusters=names
    )
    naive = compare([0.0] * 400, list(np.repeat(values, 10)), seed=0, binary=False)
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.02)
    assert naive.high - naive.low < 0.4 * (tenfold.high - tenfold.low)
    assert tenfold.deviation == pytest.approx(once.deviation * math.sqrt(10))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(10,) * 12, SIZES + SIZES])
def test_the_error_rate_is_right_for_few_clusters_and_wrong_without_them(
    sizes: tuple[int, ...],
) -> None:
    generator = np.random.default_rng(5)
    suites = 150
    missed, naive = 0.0, 0.0
    for _ in range(suites):
        values, names = clustered(generator, sizes)
        zeros = [0.0] * len(names)
        missed += compare(zeros, list(values), seed=0, binary=False, clusters=names).low > 0.0
        naive += float(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue) < 0.05
    assert missed / suites <= 0.05 + 3 * (0.05 * 0.95 / suites) ** 0.5
    assert naive / suites > 0.2
