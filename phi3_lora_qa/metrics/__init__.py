"""Metrics of generated answers against references, as ``evaluate`` modules that need no network.

To write your own metric, derive a class from :class:`AnswerMetric`. Nothing heavy is imported
before the first use of it, or the first call of :func:`per_item`.
"""

from typing import TYPE_CHECKING

from phi3_lora_qa.metrics.catalogue import (
    MetricInfo,
    RequestedMetric,
    find_metric,
    known_metrics,
    metric_info,
    metric_names,
    metrics_to_measure,
    per_item,
    share_metrics,
)

if TYPE_CHECKING:
    from phi3_lora_qa.metrics.modules import AnswerMetric

__all__ = [
    "AnswerMetric",
    "MetricInfo",
    "RequestedMetric",
    "find_metric",
    "known_metrics",
    "metric_info",
    "metric_names",
    "metrics_to_measure",
    "per_item",
    "share_metrics",
]


def __getattr__(name: str) -> object:
    if name == "AnswerMetric":
        from phi3_lora_qa.metrics.modules import AnswerMetric

        return AnswerMetric
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
