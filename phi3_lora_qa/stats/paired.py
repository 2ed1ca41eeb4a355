"""Compare base and tuned model on the same items: the paired difference, its interval, a decision.

Formulas, sources and reasons: docs/explanation-statistics.md.
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
    linearize_ratio,
    standard_error,
)
from phi3_lora_qa.stats.distributions import share_interval
from phi3_lora_qa.stats.paired_binary import exact_interval
from phi3_lora_qa.stats.unbounded_mean import MIN_EQUAL_ITEMS, MIN_ITEMS, unbounded_interval

if TYPE_CHECKING:
    from phi3_lora_qa.stats.clusters import Numbers

CONFIDENCE = 0.90
"""Of two one-sided bounds at 95 % each."""

MANY_ITEMS = 1_000_000
"""The result of ``items_needed`` if no suite of a practical size would decide."""

_Z_BOUND, _Z_POWER = 1.645, 0.842  # normal quantiles of 95 % (the bound) and 80 % (the power)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The interval for tuned minus base from paired items, in the metric's own unit.

    Attributes:
        mean_base: Mean of the base's scores.
        mean_tuned: Mean of the tuned model's scores.
        difference: Mean of tuned minus base.
        low: One-sided 95 % bound for the mean difference in the population that the suite was
            drawn from; with ``high`` a 90 % interval.
        high: The upper bound.
        tuned_low: One-sided 95 % bound for the tuned mean alone, for absolute limits.
        tuned_high: The upper bound.
        deviation: Standard deviation of the paired differences, 0 below two items. For clusters:
            the standard error of their mean times the root of n, so that the same formula gives
            the items needed.
        method: The method in words.
        n: Number of items.
        observations: Number of clusters, or n without clusters.
        confidence: Confidence of each pair of bounds.
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
        """Return the bounds that a rule uses: of the tuned mean or of the difference."""
        if rule in ("at_least", "at_most"):
            return self.tuned_low, self.tuned_high
        return self.low, self.high


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """The part of an `Interval` that depends on the kind of score."""

    method: str
    difference: tuple[float, float]
    tuned: tuple[float, float]
    deviation: float
    observations: int


def compare(  # noqa: PLR0913 - what is compared, and what is known about it
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    seed: int,
    binary: bool,
    span: tuple[float, float] | None = None,
    clusters: Sequence[str] | None = None,
) -> Interval:
    """Compare the scores of the same items under both models.

    The result depends only on the scores and on ``seed``, not on the order of the items.

    Args:
        base: One score for each item under the base.
        tuned: The scores of the same items, in the same order, under the tuned model.
        seed: Seed of the resampling.
        binary: Scores are 0 or 1; the interval is then exact.
        span: Smallest and largest possible score; None if the score is unbounded.
        clusters: The cluster of each item, empty for none. If any cluster has several items, the
            clusters are the observations; fewer than ``MIN_ITEMS`` of them decide nothing.

    Raises:
        DataError: The lengths differ, a score is not finite, or a score is outside of its range.
    """
    import numpy as np

    before, after = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    span = (0.0, 1.0) if binary else span
    _check(before, after, binary, span)
    n = int(before.size)
    if clusters is not None and are_clustered(clusters, n):
        found = _clustered_bounds(before, after, span, clusters, seed)
    elif binary:
        found = _binary_bounds(before, after)
    else:
        found = _resampled_bounds(before, after, span, seed)
    method = found.method
    if math.isinf(found.difference[0]) or n == 0:
        method += ", too few items" if found.observations == n else ", too few"
    return Interval(
        mean_base=exact_mean(before),
        mean_tuned=exact_mean(after),
        difference=exact_mean(after - before),
        low=found.difference[0],
        high=found.difference[1],
        tuned_low=found.tuned[0],
        tuned_high=found.tuned[1],
        deviation=found.deviation,
        method=method,
        n=n,
        observations=found.observations,
        confidence=CONFIDENCE,
    )


def decide(interval: Interval, rule: str, value: float, higher_is_better: bool) -> Outcome:
    """Compare an interval with a limit.

    Args:
        interval: From ``compare``.
        rule: ``at_least`` or ``at_most`` (the tuned mean); ``improve_by`` (the improvement exceeds
            ``value``); ``no_worse_than`` (the loss of quality is at most ``value``, the
            non-inferiority margin).
        value: The limit in the metric's own unit.
        higher_is_better: False for a loss, where a negative difference is an improvement.

    Returns:
        Passed or failed if the whole interval is on that side of the limit, else inconclusive.

    Raises:
        DataError: The rule is unknown, or a number is NaN.
    """
    low, high = interval.bounds(rule)
    if any(math.isnan(number) for number in (low, high, value)):
        raise DataError("a bound or a limit is NaN, which decides nothing; check those items")
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
    """Estimate the number of items that decide with 80 % power, if the estimate is the truth.

    The half width is split into a normal part, ``z s / sqrt(n)``, and the part ``k / n`` that an
    exact bound adds for unseen items; ``(z_0.95 + z_0.80) s / sqrt(m) + k / m = distance`` is
    solved for m.

    Args:
        interval: From ``compare``.
        rule: As in ``decide``.
        value: The limit.
        higher_is_better: As in ``decide``.

    Returns:
        The number of items m, at most ``MANY_ITEMS``.
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
    # The lower limit of the root avoids the underflow of its square.
    return min(MANY_ITEMS, max(n + 1, math.ceil(max(root, 1.0 / math.sqrt(MANY_ITEMS)) ** -2)))


def exact_mean(values: "Numbers") -> float:
    """Return the correctly rounded sum over n, which does not depend on the order of the items."""
    return math.fsum(values.tolist()) / values.size if values.size else math.nan


def difference_span(span: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the range of a difference of two scores; None if they are unbounded."""
    return (span[0] - span[1], span[1] - span[0]) if span else None


def _deviation(change: "Numbers") -> float:
    import numpy as np

    # Sorted, so that not even the last bit depends on the order of the items.
    return float(np.sort(change).std(ddof=1)) if change.size > 1 else 0.0


def _binary_bounds(before: "Numbers", after: "Numbers") -> _Bounds:
    n, right = int(after.size), int(after.sum())
    low, high = exact_interval(
        int((after > before).sum()), int((after < before).sum()), n, CONFIDENCE
    )
    return _Bounds(
        method="exact unconditional (Tango's score)",
        difference=(low, high),
        tuned=share_interval(right, n, CONFIDENCE),
        deviation=_deviation(after - before),
        observations=n,
    )


def _resampled_bounds(
    before: "Numbers", after: "Numbers", span: tuple[float, float] | None, seed: int
) -> _Bounds:
    import numpy as np

    def interval(values: "Numbers", span: tuple[float, float] | None) -> tuple[float, float]:
        if span is None:
            return unbounded_interval(np.sort(values), CONFIDENCE, seed)
        return bounded_interval(np.sort(values), span, CONFIDENCE, seed)

    bootstrap = "bootstrap (widest of BCa, bootstrap-t, Student's t)"
    return _Bounds(
        method=bootstrap if span is None else "bounded mean (Learned-Miller and Thomas)",
        difference=interval(after - before, difference_span(span)),
        tuned=interval(after, span),
        deviation=_deviation(after - before),
        observations=int(after.size),
    )


def _clustered_bounds(
    before: "Numbers",
    after: "Numbers",
    span: tuple[float, float] | None,
    clusters: Sequence[str],
    seed: int,
) -> _Bounds:
    totals = cluster_totals(after - before, clusters)
    count = int(totals[0].size)
    error = float(standard_error(*totals)) if count > 1 else 0.0
    return _Bounds(
        method=f"cluster-robust, {count} clusters",
        difference=_clustered_interval(*totals, difference_span(span), seed),
        tuned=_clustered_interval(*cluster_totals(after, clusters), span, seed),
        deviation=error * math.sqrt(after.size),
        observations=count,
    )


def _clustered_interval(
    sums: "Numbers", sizes: "Numbers", span: tuple[float, float] | None, seed: int
) -> tuple[float, float]:
    """Return bounds from clusters, which allow for unseen whole clusters at the end of a range."""
    if span is None or sums.size < MIN_ITEMS:
        return unbounded_interval(sums, CONFIDENCE, seed, sizes)
    import numpy as np

    values, reach = linearize_ratio(sums, sizes, span)
    low, high = bounded_interval(np.sort(values), reach, CONFIDENCE, seed)
    return max(low, span[0]), min(high, span[1])


def _check(
    before: "Numbers", after: "Numbers", binary: bool, span: tuple[float, float] | None
) -> None:
    import numpy as np

    if before.shape != after.shape or before.ndim != 1:
        raise DataError(
            f"the base has {before.size} scores and the tuned model {after.size}; "
            "pair them item by item"
        )
    both = np.concatenate((before, after))
    if not np.isfinite(both).all():
        raise DataError(
            f"{int((~np.isfinite(both)).sum())} scores are not finite; "
            "treat those items as failed before comparing"
        )
    if binary and not np.isin(both, (0.0, 1.0)).all():
        raise DataError("a binary score is neither 0 nor 1; pass binary=False")
    if span is not None and both.size and not span[0] <= both.min() <= both.max() <= span[1]:
        raise DataError(
            f"a score is outside of [{span[0]:g}, {span[1]:g}]; pass the metric's own range"
        )
