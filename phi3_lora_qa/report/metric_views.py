"""Metrics as the page shows them: numbers, limit, and the plot of the interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.data.thresholds import limit_text
from phi3_lora_qa.record import Metric, Outcome
from phi3_lora_qa.report.outcome_words import metric_mark, metric_word
from phi3_lora_qa.report.plots import (
    IntervalPlot,
    bounds_tuned_mean,
    higher_is_better,
    interval_plot,
)
from phi3_lora_qa.report.safe_text import interval


@dataclass(frozen=True, kw_only=True)
class MetricView:
    """One metric with its plot, if its numbers are finite; ``has_outcome`` if it was decided."""

    result: Metric
    limit: str
    interval: str
    has_outcome: bool
    mark: str
    word: str
    better: str
    plot: IntervalPlot | None


def metric_groups(metrics: Sequence[Metric]) -> tuple[tuple[str, tuple[MetricView, ...]], ...]:
    """Return each group of items with its metrics, in the order of the record."""
    return tuple(
        (group, tuple(_view(metric) for metric in metrics if metric.group == group))
        for group in dict.fromkeys(metric.group for metric in metrics)
    )


def shown_limit(metric: Metric) -> str:
    """Return a metric's limit in words; empty if it has none."""
    return limit_text(metric.limit) if metric.limit else ""


def _view(metric: Metric) -> MetricView:
    return MetricView(
        result=metric,
        limit=shown_limit(metric),
        interval=interval(metric.low, metric.high, of_mean=bounds_tuned_mean(metric)),
        # A metric without a limit cannot have passed.
        has_outcome=metric.outcome is not None
        and (metric.limit is not None or metric.outcome is not Outcome.PASSED),
        mark=metric_mark(metric),
        word=metric_word(metric),
        better="higher" if higher_is_better(metric.metric) else "lower",
        plot=interval_plot(metric),
    )
