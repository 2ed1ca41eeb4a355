"""Metrics of generated answers against references, as ``evaluate`` modules that need no network.

To write your own metric, derive a class from :class:`phi3_lora_qa.metrics.modules.AnswerMetric`.
Nothing heavy is imported before the first call of :func:`per_item`.
"""

from phi3_lora_qa.metrics.catalogue import (
    MetricInfo,
    RequestedMetric,
    find_metric,
    known_metrics,
    metric_info,
    metric_names,
    metrics_to_measure,
    per_item,
)

__all__ = [
    "MetricInfo",
    "RequestedMetric",
    "find_metric",
    "known_metrics",
    "metric_info",
    "metric_names",
    "metrics_to_measure",
    "per_item",
]
