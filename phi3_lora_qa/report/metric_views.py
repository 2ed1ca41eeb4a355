"""Base against tuned, metric by metric: numbers, limit, and the plot of the interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.record import Metric, Outcome
from phi3_lora_qa.report.outcome_words import OUTCOME_MARKS, word_of
from phi3_lora_qa.report.plots import (
    IntervalPlot,
    bounds_tuned_mean,
    higher_is_better,
    interval_plot,
    limit_text,
)
from phi3_lora_qa.report.safe_text import interval


@dataclass(frozen=True, kw_only=True)
class MetricView:
    """One metric with its plot, where its numbers allow one. Without a limit it judges nothing."""

    result: Metric
    limit: str
    interval: str
    judged: bool
    mark: str
    word: str
    better: str
    plot: IntervalPlot | None


def metric_groups(metrics: Sequence[Metric]) -> tuple[tuple[str, tuple[MetricView, ...]], ...]:
    """Return each group of items with its metrics, in the order of the record."""
    return tuple(
        (
            group,
            tuple(
                MetricView(
                    result=m,
                    limit=limit_text(m.limit).removeprefix(f"{m.metric} "),
                    interval=interval(m.low, m.high, of_mean=bounds_tuned_mean(m)),
                    judged=bool(m.limit) or m.outcome not in (Outcome.PASSED, Outcome.NOT_RUN),
                    mark=OUTCOME_MARKS[m.outcome],
                    word=word_of(m.outcome),
                    better="higher" if higher_is_better(m.metric) else "lower",
                    plot=interval_plot(m),
                )
                for m in metrics
                if m.group == group
            ),
        )
        for group in dict.fromkeys(m.group for m in metrics)
    )
