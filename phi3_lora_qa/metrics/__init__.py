"""Metrics of answers against references, as ``evaluate`` modules of our own: no hub, no network.

Nothing heavy is imported before the first call of ``per_item``.
"""

from phi3_lora_qa.metrics.catalogue import (
    MetricInfo,
    RequestedMetric,
    find_metric,
    known_metrics,
    measured,
    metric_info,
    metric_names,
    per_item,
    share_metrics,
)

__all__ = [
    "MetricInfo",
    "RequestedMetric",
    "find_metric",
    "known_metrics",
    "measured",
    "metric_info",
    "metric_names",
    "per_item",
    "share_metrics",
]
