"""The geometry of the page's small plots; the template draws it as inline SVG.

This module returns only numbers, so no untrusted text reaches the SVG through it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.metrics import known_metrics, metric_info
from phi3_lora_qa.record import Metric

INTERVAL_WIDTH = 220
_MARGIN = 8

_OF_THE_MEAN = ("at_least", "at_most")


@dataclass(frozen=True, kw_only=True)
class IntervalPlot:
    """Horizontal positions in SVG units; ``limit`` is None if the metric has no limit."""

    low: float
    high: float
    point: float
    zero: float
    limit: float | None


@dataclass(frozen=True, kw_only=True)
class BarPlot:
    """Bars as one SVG path of vertical strokes, ``width`` by ``height`` units."""

    path: str
    width: int
    height: int
    not_finite: int


def higher_is_better(metric: str) -> bool:
    """Return whether higher values of a metric are better; assumed for an unknown metric."""
    return metric not in known_metrics() or metric_info(metric).higher_is_better


def bounds_tuned_mean(metric: Metric) -> bool:
    """Return whether limit and interval bound the tuned mean instead of the difference."""
    return metric.limit is not None and metric.limit.rule in _OF_THE_MEAN


def limit_value(metric: Metric) -> float | None:
    """Return the position of the limit on the axis of differences; None if there is no limit."""
    limit = metric.limit
    if limit is None or not math.isfinite(limit.value):
        return None
    if limit.rule in _OF_THE_MEAN:
        return limit.value - metric.base
    gain = limit.value if limit.rule == "improve_by" else -limit.value
    return gain if higher_is_better(metric.metric) else -gain


def interval_plot(metric: Metric) -> IntervalPlot | None:
    """Return the positions of one metric on its own axis; None if a number is not finite.

    The axis is symmetric about zero, so that a reader sees at once on which side an interval is.
    """
    shift = metric.base if bounds_tuned_mean(metric) else 0.0
    low, high, point = metric.low - shift, metric.high - shift, metric.difference
    if not all(map(math.isfinite, (low, high, point))):
        return None
    limit = limit_value(metric)
    reach = max(abs(value) for value in (low, high, point, limit or 0.0))
    return IntervalPlot(
        low=_place(low, reach),
        high=_place(high, reach),
        point=_place(point, reach),
        zero=_place(0.0, reach),
        limit=None if limit is None else _place(limit, reach),
    )


def bar_plot(values: Sequence[float], *, pitch: int = 5, height: int = 28) -> BarPlot:
    """Return values as bars, the largest as high as the plot.

    A value that is not finite gets a bar of full height, so that it is noticed, and is counted.
    """
    finite = [abs(value) for value in values if math.isfinite(value)]
    top = max(finite, default=0.0) or 1.0
    strokes = []
    for i, value in enumerate(values):
        share = abs(value) / top if math.isfinite(value) else 1.0
        strokes.append(f"M{i * pitch + pitch / 2:g} {height}v-{max(0.5, share * height):.3g}")
    return BarPlot(
        path="".join(strokes),
        width=max(1, len(values)) * pitch,
        height=height,
        not_finite=len(values) - len(finite),
    )


def _place(value: float, reach: float) -> float:
    share = max(-1.0, min(1.0, value / reach)) if reach else 0.0
    return round(INTERVAL_WIDTH / 2 + share * (INTERVAL_WIDTH / 2 - _MARGIN), 1)
