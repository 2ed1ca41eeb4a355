"""The geometry of the page's small plots; the template draws it as inline SVG.

Only numbers leave this module, so no untrusted text can reach the SVG through it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from phi3_lora_qa.data.thresholds import RULES, Limit
from phi3_lora_qa.metrics import known_metrics, metric_info
from phi3_lora_qa.record import LimitEntry, Metric

INTERVAL_WIDTH = 220
_MARGIN = 8

_NUMBER = r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
_LIMITS = {
    rule: re.compile(
        r"(?:^|\s)"
        + re.escape(words).replace(r"\{\}", _NUMBER).replace(r"the\ base", r"the\ base(?:line)?")
        + "$"
    )
    for rule, words in RULES.items()
}
_OF_THE_MEAN = ("at_least", "at_most")


@dataclass(frozen=True, kw_only=True)
class IntervalPlot:
    """Horizontal positions in SVG units; ``limit`` is None where no number stands in the limit."""

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
    """Tell which way is up; of an unknown metric, as of nearly all, higher."""
    return metric not in known_metrics() or metric_info(metric).higher_is_better


def bounds_tuned_mean(metric: Metric) -> bool:
    """Tell whether limit and interval are of the tuned mean itself and not of the difference."""
    demand = _demand(limit_text(metric.limit))
    return demand is not None and demand[0] in _OF_THE_MEAN


def limit_value(metric: Metric) -> float | None:
    """Return where the limit lies on the axis of differences, or None where there is none."""
    demand = _demand(limit_text(metric.limit))
    if demand is None:
        return None
    rule, value = demand
    if rule in _OF_THE_MEAN:
        return value - metric.base
    gain = value if rule == "improve_by" else -value
    return gain if higher_is_better(metric.metric) else -gain


def limit_text(limit: LimitEntry | None) -> str:
    """Return a limit as a sentence; empty where there is none."""
    return Limit(**asdict(limit)).describe() if limit else ""


def _demand(limit: str) -> tuple[str, float] | None:
    for rule, pattern in _LIMITS.items():
        if found := pattern.search(limit):
            return rule, float(found[1])
    return None


def interval_plot(metric: Metric) -> IntervalPlot | None:
    """Place one metric on an axis of its own; None when a number of it is not finite.

    The axis is symmetric about zero, so that the side on which an interval lies is seen at once.
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
    """Draw values as bars, the largest as high as the plot.

    A value that is not finite gets a bar of full height and is counted, so that it cannot hide.
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
