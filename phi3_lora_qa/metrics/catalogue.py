"""Which metrics there are, which way is up, and the one call that computes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.data.answer_checks import KINDS, checks_json
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import DataError, escape

Span = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What a comparison must know of a metric.

    Attributes:
        name: How a limit names it.
        higher_is_better: Which way is up.
        binary: Scores are 0 or 1.
        span: The smallest and the largest possible score, None where there is no limit.
        generated: It is computed from generated answers.
        usual: It is measured unasked; another only where a limit or a setting asks for it.
        checked: The kinds of checks of which an item must have one to be measured.
        chosen: An item must have choices to be measured.
        relative: It says how far the tuned model is from the base, and the base's own score is
            what it is: no model is better or worse by it alone.
        place: Where a metric of the user's own is; empty for one of ours.
    """

    name: str
    higher_is_better: bool = True
    binary: bool = False
    span: Span = (0.0, 1.0)
    generated: bool = True
    usual: bool = True
    checked: frozenset[str] = frozenset()
    chosen: bool = False
    relative: bool = False
    place: str = ""

    def applies(self, item: Item) -> bool:
        """Whether the metric says something of this item."""
        if self.chosen:
            return bool(item.choices)
        return not self.checked or any(check.kind in self.checked for check in item.checks)


@dataclass(frozen=True, kw_only=True)
class RequestedMetric:
    """A metric that a setting asks for: one of ours by its name, or, at ``place``, another's."""

    name: str
    place: str = ""

    @property
    def file(self) -> Path | None:
        """The file or folder that another's metric is read from, where that can be told."""
        from phi3_lora_qa.metrics.custom import file_of

        return file_of(self.place) if self.place else None


LOSS, STOPPED, CHOICE = "loss", "stopped", "choice"
DIVERGENCE, AGREEMENT = "divergence", "agreement"
TOLD = (LOSS, STOPPED, CHOICE, DIVERGENCE, AGREEMENT)
"""What scoring itself tells: nothing is computed from answers."""

_METRICS = {
    info.name: info
    for info in (
        MetricInfo(name=LOSS, higher_is_better=False, span=None, generated=False),
        MetricInfo(name="exact_match", binary=True),
        MetricInfo(name="token_f1"),
        MetricInfo(name="rouge_l"),
        MetricInfo(name="chrf", usual=False),
        MetricInfo(name="bleu", usual=False),
        MetricInfo(name="checks", binary=True, checked=frozenset(KINDS)),
        MetricInfo(name="json_valid", binary=True, checked=frozenset({"json", "json_schema"})),
        MetricInfo(name="refusal", binary=True, checked=frozenset({"refusal"})),
        MetricInfo(name=STOPPED, binary=True),
        MetricInfo(name=CHOICE, binary=True, chosen=True),
        MetricInfo(name=DIVERGENCE, higher_is_better=False, span=None, relative=True),
        MetricInfo(name=AGREEMENT, relative=True),
        MetricInfo(name="repetition", higher_is_better=False),
        MetricInfo(name="empty", higher_is_better=False, binary=True, usual=False),
        MetricInfo(name="length_ratio", usual=False),
    )
}


def known_metrics() -> tuple[str, ...]:
    """Return every metric of ours that a limit may name."""
    return tuple(_METRICS)


def share_metrics() -> tuple[str, ...]:
    """Return every built-in metric whose scores are from 0 to 1."""
    return tuple(name for name, info in _METRICS.items() if info.span == (0.0, 1.0))


def metric_names() -> tuple[str, ...]:
    """Return the metrics that ``per_item`` computes from answers."""
    return tuple(name for name in _METRICS if name not in TOLD)


def metric_info(name: str) -> MetricInfo:
    """Return what is known of a metric of ours.

    Raises:
        DataError: There is no such metric.
    """
    if name not in _METRICS:
        raise DataError(f"unknown metric {name!r}; use one of {', '.join(_METRICS)}")
    return _METRICS[name]


def find_metric(text: str, start: Path) -> RequestedMetric:
    """Find the metric that a setting means, without importing what others wrote.

    Args:
        text: A name of ours; ``MODULE:CLASS``; or the path of an ``evaluate`` module, a script or
            a folder that holds the script of its name.
        start: Where a relative path starts.

    Raises:
        DataError: There is no such metric, or its name is one of ours.
    """
    if text in _METRICS:
        return RequestedMetric(name=text)
    from phi3_lora_qa.metrics.custom import find_custom

    name, place = find_custom(text, start)
    if name in _METRICS:
        raise DataError(
            f"the metric {escape(text, 80)} bears the name of a built-in one; give it another"
        )
    return RequestedMetric(name=name, place=place)


def measured(asked: Iterable[RequestedMetric], named: Iterable[str]) -> tuple[MetricInfo, ...]:
    """Return the metrics to measure: the usual ones, those asked for, those that limits name.

    Raises:
        DataError: A metric of the user's own cannot be loaded.
    """
    asked = tuple(asked)
    wanted = {metric.name for metric in asked} | set(named)
    ours = [info for info in _METRICS.values() if info.usual or info.name in wanted]
    return (*ours, *(_own(metric) for metric in dict.fromkeys(asked) if metric.place))


def per_item(info: MetricInfo, items: Sequence[Item], answers: Sequence[str]) -> list[float]:
    """Score each answer to the item of the same place.

    Args:
        info: A metric of answers.
        items: What was asked; the metric must apply to each.
        answers: What a model wrote; may hold anything, lone surrogates too.

    Returns:
        One score within the metric's span for each answer.

    Raises:
        DataError: The metric is not computed from answers or fails, or the lengths differ.
    """
    if info.name in TOLD:
        raise DataError(
            f"{info.name} is no metric of answers; use one of {', '.join(metric_names())}"
        )
    if len(answers) != len(items):
        raise DataError(f"{len(answers)} answers to {len(items)} items; give one for each")
    if not answers:
        return []
    against = [checks_json(i.checks) if info.checked else i.reference for i in items]
    if info.place:
        from phi3_lora_qa.metrics.custom import compute_custom

        return compute_custom(info.place, [item.id for item in items], answers, against)
    from phi3_lora_qa.metrics.modules import compute

    return compute(info.name, answers, against)


def _own(metric: RequestedMetric) -> MetricInfo:
    from phi3_lora_qa.metrics.custom import bounds_of

    binary, span = bounds_of(metric.place)
    return MetricInfo(name=metric.name, binary=binary, span=span, place=metric.place)
