"""Base against tuned on the same items: the paired difference, its interval, and the decision.

Formulas, sources and the reasons behind them: docs/explanation-statistics.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phi3_lora_qa.errors import DataError
from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.bounded_mean import bounded_interval
from phi3_lora_qa.stats.clusters import (
    are_clustered,
    cluster_totals,
    linearised,
    standard_error,
)
from phi3_lora_qa.stats.paired_binary import exact_interval
from phi3_lora_qa.stats.unbounded_mean import MIN_EQUAL_ITEMS, MIN_ITEMS, unbounded_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from phi3_lora_qa.stats.clusters import Numbers

CONFIDENCE = 0.90
"""Two one-sided bounds at 95 % each."""

MANY_ITEMS = 1_000_000
"""The answer of ``items_needed`` where no suite of a sane size would decide."""

_Z_BOUND, _Z_POWER = 1.645, 0.842  # normal quantiles of 95 % (the bound) and 80 % (the power)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What ``n`` paired items say of tuned minus base, in the metric's own unit.

    ``low`` and ``high`` are one-sided 95 % bounds for the mean difference in the population of
    items that the suite was drawn from; together a 90 % interval. ``tuned_low`` and ``tuned_high``
    bound the tuned mean alone, for absolute limits. ``deviation`` is the standard deviation of
    the paired differences, 0 below two items; of clusters it is what the standard error of their
    mean is times the root of n, so that one formula tells how many items are missing.
    ``observations`` is the number of clusters, and n where there are none.
    """

    mean_base: float
    mean_tuned: float
    difference: float
    low: float
    high: float
    tuned_low: float
    tuned_high: float
    deviation: float
    method: str
    n: int
    observations: int
    confidence: float

    def bounds(self, rule: str) -> tuple[float, float]:
        """Return the bounds that decide under ``rule``: of the tuned mean or of the difference."""
        if rule in ("at_least", "at_most"):
            return self.tuned_low, self.tuned_high
        return self.low, self.high


def compare(  # noqa: PLR0913 - what is compared, and all that tells how
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    seed: int,
    binary: bool,
    span: tuple[float, float] | None = None,
    clusters: Sequence[str] | None = None,
) -> Interval:
    """Compare the scores of the same items under both models.

    The result depends neither on the order of the items nor on anything random but ``seed``.

    Args:
        base: One score for each item under the base.
        tuned: The scores of the same items, in the same order, under the tuned model.
        seed: Of the resampling.
        binary: Scores are 0 or 1; the interval is then exact.
        span: Smallest and largest possible score, or None where there is no limit.
        clusters: The cluster of each item, empty where it is alone. Where any holds several, they
            and not the items are the observations; below ``MIN_ITEMS`` of them nothing is decided.

    Raises:
        DataError: The lengths differ, a score is not finite, or one lies outside its range.
    """
    import numpy as np

    before, after = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    span = (0.0, 1.0) if binary else span
    _check(before, after, binary, span)
    n = observations = int(before.size)
    change = after - before
    # The bounds' sums are over sorted values, so that no order of the items reaches their last bit.
    deviation = float(np.sort(change).std(ddof=1)) if n > 1 else 0.0
    if clusters is not None and are_clustered(clusters, n):
        totals = cluster_totals(change, clusters)
        observations = int(totals[0].size)
        method = f"cluster-robust, {observations} clusters"
        deviation = float(standard_error(*totals)) * math.sqrt(n) if observations > 1 else 0.0
        low, high = _clustered(*totals, _twice(span), seed)
        tuned_low, tuned_high = _clustered(*cluster_totals(after, clusters), span, seed)
    elif binary:
        method, low, high, tuned_low, tuned_high = _binary(before, after)
    elif span is not None:
        method = "bounded mean (Learned-Miller and Thomas)"
        reach = span[1] - span[0]
        low, high = bounded_interval(np.sort(change), (-reach, reach), CONFIDENCE, seed)
        tuned_low, tuned_high = bounded_interval(np.sort(after), span, CONFIDENCE, seed)
    else:
        method = "bootstrap (widest of BCa, bootstrap-t, Student's t)"
        low, high = unbounded_interval(np.sort(change), CONFIDENCE, seed)
        tuned_low, tuned_high = unbounded_interval(np.sort(after), CONFIDENCE, seed)
    if math.isinf(low) or n == 0:
        method += ", too few items" if observations == n else ", too few"
    return Interval(
        mean_base=mean_of(before),
        mean_tuned=mean_of(after),
        difference=mean_of(change),
        low=low,
        high=high,
        tuned_low=tuned_low,
        tuned_high=tuned_high,
        deviation=deviation,
        method=method,
        n=n,
        observations=observations,
        confidence=CONFIDENCE,
    )


def decide(interval: Interval, rule: str, value: float, higher_is_better: bool) -> Outcome:
    """Hold an interval against a limit: all of it on the good side, on the bad side, or neither.

    Args:
        interval: From ``compare``.
        rule: ``at_least`` or ``at_most`` (the tuned mean); ``improve_by`` (the improvement exceeds
            ``value``); ``no_worse_than`` (the loss of quality is at most ``value``, the
            non-inferiority margin).
        value: The limit in the metric's own unit.
        higher_is_better: False for a loss: there a negative difference is an improvement.

    Raises:
        DataError: The rule is unknown, or a number is NaN.
    """
    low, high = interval.bounds(rule)
    if any(math.isnan(number) for number in (low, high, value)):
        raise DataError("a comparison with NaN decides nothing; look at the items that gave it")
    if interval.n == 0:
        return Outcome.INCONCLUSIVE
    if not higher_is_better and rule in ("improve_by", "no_worse_than"):
        low, high = -high, -low
    match rule:
        case "at_least":
            good, bad = low >= value, high < value
        case "at_most":
            good, bad = high <= value, low > value
        case "improve_by":
            good, bad = low > value, high <= value
        case "no_worse_than":
            good, bad = low >= -value, high < -value
        case _:
            raise DataError(
                f"unknown rule {rule!r}; use at_least, at_most, improve_by or no_worse_than"
            )
    if good:
        return Outcome.PASSED
    return Outcome.FAILED if bad else Outcome.INCONCLUSIVE


def items_needed(interval: Interval, rule: str, value: float, higher_is_better: bool) -> int:
    """Estimate how many items would decide four times out of five, if the truth is as it looks.

    The half width is taken apart into a normal part, ``z s / sqrt(n)``, and what an exact bound
    adds for the unseen, ``k / n``; then ``(z_0.95 + z_0.80) s / sqrt(m) + k / m = distance`` is
    solved for m. At most ``MANY_ITEMS``.
    """
    low, high = interval.bounds(rule)
    n = interval.n
    if n == 0 or not (math.isfinite(low) and math.isfinite(high)):
        fewest = MIN_EQUAL_ITEMS if interval.observations >= MIN_ITEMS else MIN_ITEMS
        return math.ceil(fewest * n / interval.observations) if n else fewest
    absolute = rule in ("at_least", "at_most")
    seen = interval.mean_tuned if absolute else interval.difference
    upwards = absolute or higher_is_better
    limit = (-value if rule == "no_worse_than" else value) * (1.0 if upwards else -1.0)
    distance, width = (seen - limit, seen - low) if seen > limit else (limit - seen, high - seen)
    normal = width * math.sqrt(n)
    if not absolute:
        normal = min(normal, _Z_BOUND * interval.deviation)
    unseen = max(0.0, width * n - normal * math.sqrt(n))
    slope = normal * (_Z_BOUND + _Z_POWER) / _Z_BOUND
    if distance <= 0.0 or slope + unseen == 0.0:
        return MANY_ITEMS
    # The positive root of unseen y^2 + slope y - distance, with y = 1 / sqrt(m), in a stable form.
    root = 2.0 * distance / (slope + math.sqrt(slope**2 + 4.0 * unseen * distance))
    # So small a root that its square is nothing means very many items.
    return min(MANY_ITEMS, max(n + 1, math.ceil(max(root, 1.0 / math.sqrt(MANY_ITEMS)) ** -2)))


def mean_of(values: "NDArray[np.float64]") -> float:
    """Return the correctly rounded sum over n, so that no order of the items changes a bit."""
    return math.fsum(values.tolist()) / values.size if values.size else math.nan


def _binary(
    before: "NDArray[np.float64]", after: "NDArray[np.float64]"
) -> tuple[str, float, float, float, float]:
    from scipy import stats

    n, right = int(after.size), int(after.sum())
    low, high = exact_interval(
        int((after > before).sum()), int((after < before).sum()), n, CONFIDENCE
    )
    share = stats.binomtest(right, n).proportion_ci(CONFIDENCE, method="exact") if n else (0.0, 1.0)
    return "exact unconditional (Tango's score)", low, high, float(share[0]), float(share[1])


def _clustered(
    sums: "Numbers", sizes: "Numbers", span: tuple[float, float] | None, seed: int
) -> tuple[float, float]:
    """Bounds from clusters: what may lie unseen at the end of a range counts by whole clusters."""
    if span is None or sums.size < MIN_ITEMS:
        return unbounded_interval(sums, CONFIDENCE, seed, sizes)
    import numpy as np

    values, reach = linearised(sums, sizes, span)
    low, high = bounded_interval(np.sort(values), reach, CONFIDENCE, seed)
    return max(low, span[0]), min(high, span[1])


def _twice(span: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the range of a difference of two scores."""
    return (span[0] - span[1], span[1] - span[0]) if span else None


def _check(
    before: "NDArray[np.float64]",
    after: "NDArray[np.float64]",
    binary: bool,
    span: tuple[float, float] | None,
) -> None:
    import numpy as np

    if before.shape != after.shape or before.ndim != 1:
        raise DataError(
            f"{before.size} scores of the base against {after.size} of the tuned model; "
            "pair them item by item"
        )
    both = np.concatenate((before, after))
    if not np.isfinite(both).all():
        raise DataError(
            f"{int((~np.isfinite(both)).sum())} scores are not finite; "
            "treat those items as failed, and compare the others only if there are none"
        )
    if binary and not np.isin(both, (0.0, 1.0)).all():
        raise DataError("a binary score is neither 0 nor 1; compare it with binary=False")
    if span is not None and both.size and not span[0] <= both.min() <= both.max() <= span[1]:
        raise DataError(
            f"a score lies outside [{span[0]:g}, {span[1]:g}]; give the range that the metric has"
        )
