"""From rows to metrics: base and tuned model compared in pairs, and checked against the limits."""

from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.data.thresholds import BASE, BASELINE, Limit
from phi3_lora_qa.gate.paired_scores import (
    ComparisonConfig,
    PairedScores,
    SkippedItem,
    pair_scores,
)
from phi3_lora_qa.metrics import MetricInfo, RequestedMetric, metrics_to_measure
from phi3_lora_qa.record import Against, ItemRow, Metric, Outcome
from phi3_lora_qa.stats import full_suite_bounds
from phi3_lora_qa.stats.multiple_testing import LEVEL, holm
from phi3_lora_qa.stats.paired import Interval, decide, items_needed

_DECIDED = (Outcome.PASSED, Outcome.FAILED)


@dataclass(frozen=True, kw_only=True)
class RegressionTest:
    """The test of whether one metric of one group is worse than the base's, by any amount.

    ``p_value`` is one-sided and adjusted by Holm's method over all comparisons of the run;
    ``raised`` is whether it is at most the level.
    """

    group: str
    metric: str
    difference: float
    p_value: float
    raised: bool


def select_metrics(
    requested: Sequence[RequestedMetric], limits: Sequence[Limit]
) -> tuple[MetricInfo, ...]:
    """Return the metrics to measure: the default ones, the requested, and those with a limit."""
    return metrics_to_measure(requested, [limit.metric for limit in limits])


def measure(
    rows: Sequence[ItemRow], config: ComparisonConfig, skipped: Sequence[SkippedItem] = ()
) -> tuple[Metric, ...]:
    """Compare every metric in every group that it applies to, and check it against its limits.

    Rows with an error are left out; the check that every item is scored fails for them. A limit
    against a baseline without the metric has no Metric, and its check reports that.

    Args:
        rows: The items that both models were evaluated on.
        config: How they are compared.
        skipped: The items that early stopping skipped for the tuned model. In their groups, the
            intervals of the whole suite are predicted.
    """
    compared = []
    for group in sorted({row.group for row in rows}):
        for info in config.metrics:
            mine = [
                limit
                for limit in config.limits
                if (limit.group, limit.metric) == (group, info.name)
            ]
            sides: tuple[Against, ...] = (BASE, BASELINE)
            for against in sides:
                limits: list[Limit | None] = [limit for limit in mine if limit.against == against]
                baseline = config.baseline if against == BASELINE else None
                pairs = pair_scores(rows, group, info, baseline, skipped)
                if against == BASE and not limits:
                    limits = [None]
                if limits and pairs:
                    interval = pairs.compare(config)
                    compared += [_metric(pairs, interval, limit) for limit in limits]
    return tuple(compared)


def is_decided(
    rows: Sequence[ItemRow], config: ComparisonConfig, skipped: Sequence[SkippedItem]
) -> bool:
    """Return whether all limits of a group are decided, for any results of the skipped items.

    They never are if an item has an error: whether both models fail on it must be measured.

    Args:
        rows: The group's items that were evaluated.
        config: How they are compared.
        skipped: The group's other items, at least one.
    """
    group = skipped[0].item.group
    clusters = [*(row.cluster for row in rows), *(other.item.cluster for other in skipped)]
    named = [name for name in clusters if name]
    mine = [limit for limit in config.limits if limit.group == group]
    broken = [*(row.failed for row in rows), *(bool(other.base.error) for other in skipped)]
    if not mine or any(broken) or len(set(named)) < len(named):
        return False
    for limit in mine:
        info, pairs = _pairs_of(rows, limit, config, skipped)
        if pairs is None or len(pairs.ids) < full_suite_bounds.FIRST_BATCH:
            return False
        interval = pairs.compare(config)
        if decide(interval, limit.rule, limit.value, info.higher_is_better) not in _DECIDED:
            return False
    return True


def items_to_decide(rows: Sequence[ItemRow], limit: Limit, config: ComparisonConfig) -> int:
    """Estimate how many items would decide a limit; 0 if it has no scores."""
    info, pairs = _pairs_of(rows, limit, config)
    if pairs is None:
        return 0
    return items_needed(pairs.compare(config), limit.rule, limit.value, info.higher_is_better)


def regression_tests(
    rows: Sequence[ItemRow], config: ComparisonConfig
) -> tuple[RegressionTest, ...]:
    """Test for every metric in every group whether it is significantly worse than the base's."""
    found = [
        pairs
        for group in sorted({row.group for row in rows})
        for info in config.metrics
        if not info.relative and (pairs := pair_scores(rows, group, info))
    ]
    adjusted = holm([pairs.worse_p_value(config.seed) for pairs in found])
    return tuple(
        RegressionTest(
            group=pairs.group,
            metric=pairs.info.name,
            difference=pairs.difference,
            p_value=p_value,
            raised=p_value <= LEVEL,
        )
        for pairs, p_value in zip(found, adjusted, strict=True)
    )


def _pairs_of(
    rows: Sequence[ItemRow],
    limit: Limit,
    config: ComparisonConfig,
    skipped: Sequence[SkippedItem] = (),
) -> tuple[MetricInfo, PairedScores | None]:
    """Return a limit's metric, and the pairs that the limit applies to."""
    info = next(info for info in config.metrics if info.name == limit.metric)
    baseline = config.baseline if limit.against == BASELINE else None
    return info, pair_scores(rows, limit.group, info, baseline, skipped)


def _metric(pairs: PairedScores, interval: Interval, limit: Limit | None) -> Metric:
    higher = pairs.info.higher_is_better
    low, high = interval.bounds(limit.rule if limit else "")
    return Metric(
        group=pairs.group,
        metric=pairs.info.name,
        base=interval.mean_base,
        tuned=interval.mean_tuned,
        difference=interval.difference,
        low=low,
        high=high,
        method=interval.method,
        n=interval.n,
        limit=limit.entry() if limit else None,
        outcome=decide(interval, limit.rule, limit.value, higher) if limit else None,
        against=pairs.against,
    )
