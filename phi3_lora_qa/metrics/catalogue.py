"""The catalogue of metrics: what each one needs and means, and the one call that computes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.data.answer_checks import KINDS, checks_json
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import DataError, escape

Span = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What a comparison needs to know about a metric.

    Attributes:
        name: The name that a limit uses.
        higher_is_better: False for a loss.
        binary: Scores are 0 or 1.
        span: The smallest and the largest possible score; None if the score is unbounded.
        generated: The metric is computed from generated answers.
        default: The metric is always measured; others only if a limit or a setting names them.
        check_kinds: An item must have a check of one of these kinds; empty for all items.
        needs_choices: An item must have choices.
        relative: The metric measures how far the tuned model is from the base. On its own, it is
            neither better nor worse.
        import_path: ``MODULE:CLASS`` or the path of a user's metric; empty for a built-in one.

    Example:
        >>> from phi3_lora_qa.metrics import metric_info
        >>> info = metric_info("token_f1")
        >>> info.higher_is_better, info.binary, info.span
        (True, False, (0.0, 1.0))
    """

    name: str
    higher_is_better: bool = True
    binary: bool = False
    span: Span = (0.0, 1.0)
    generated: bool = True
    default: bool = True
    check_kinds: frozenset[str] = frozenset()
    needs_choices: bool = False
    relative: bool = False
    import_path: str = ""

    def applies(self, item: Item) -> bool:
        """Return whether the item has what the metric needs.

        Args:
            item: An item of a suite.

        Returns:
            True if the metric can be measured on the item.
        """
        if self.needs_choices:
            return bool(item.choices)
        return not self.check_kinds or any(check.kind in self.check_kinds for check in item.checks)


@dataclass(frozen=True, kw_only=True)
class RequestedMetric:
    """A metric that a setting requests.

    Attributes:
        name: The metric's name.
        import_path: ``MODULE:CLASS`` or the path of a user's metric; empty for a built-in one.

    Example:
        >>> from phi3_lora_qa.metrics import RequestedMetric
        >>> RequestedMetric(name="chrf").file is None
        True
    """

    name: str
    import_path: str = ""

    @property
    def file(self) -> Path | None:
        """The file or folder that a user's metric is loaded from, if it is known."""
        from phi3_lora_qa.metrics.custom import source_file

        return source_file(self.import_path) if self.import_path else None


LOSS, STOPPED, CHOICE = "loss", "stopped", "choice"
DIVERGENCE, AGREEMENT = "divergence", "agreement"
FROM_SCORING = (LOSS, STOPPED, CHOICE, DIVERGENCE, AGREEMENT)
"""Metrics that scoring itself returns; the others are computed from answers."""

_METRICS = {
    info.name: info
    for info in (
        MetricInfo(name=LOSS, higher_is_better=False, span=None, generated=False),
        MetricInfo(name="exact_match", binary=True),
        MetricInfo(name="token_f1"),
        MetricInfo(name="rouge_l"),
        MetricInfo(name="chrf", default=False),
        MetricInfo(name="bleu", default=False),
        MetricInfo(name="checks", binary=True, check_kinds=frozenset(KINDS)),
        MetricInfo(name="json_valid", binary=True, check_kinds=frozenset({"json", "json_schema"})),
        MetricInfo(name="refusal", binary=True, check_kinds=frozenset({"refusal"})),
        MetricInfo(name=STOPPED, binary=True),
        MetricInfo(name=CHOICE, binary=True, needs_choices=True),
        MetricInfo(name=DIVERGENCE, higher_is_better=False, span=None, relative=True),
        MetricInfo(name=AGREEMENT, relative=True),
        MetricInfo(name="repetition", higher_is_better=False),
        MetricInfo(name="empty", higher_is_better=False, binary=True, default=False),
        MetricInfo(name="length_ratio", default=False),
    )
}


def known_metrics() -> tuple[str, ...]:
    """Return the names of all built-in metrics, which a limit may use.

    Returns:
        The names in the order of the catalogue.

    Example:
        >>> from phi3_lora_qa.metrics import known_metrics
        >>> "loss" in known_metrics()
        True
    """
    return tuple(_METRICS)


def share_metrics() -> tuple[str, ...]:
    """Return every built-in metric whose scores are from 0 to 1.

    Returns:
        The names in the order of the catalogue.

    Example:
        >>> "exact_match" in share_metrics(), "loss" in share_metrics()
        (True, False)
    """
    return tuple(name for name, info in _METRICS.items() if info.span == (0.0, 1.0))


def metric_names() -> tuple[str, ...]:
    """Return the names of the built-in metrics that :func:`per_item` computes from answers.

    Returns:
        The names in the order of the catalogue.

    Example:
        >>> from phi3_lora_qa.metrics import metric_names
        >>> "exact_match" in metric_names(), "loss" in metric_names()
        (True, False)
    """
    return tuple(name for name in _METRICS if name not in FROM_SCORING)


def metric_info(name: str) -> MetricInfo:
    """Return what is known about a built-in metric.

    Args:
        name: One of :func:`known_metrics`.

    Returns:
        The entry of the catalogue.

    Raises:
        DataError: There is no such metric.

    Example:
        >>> from phi3_lora_qa.metrics import metric_info
        >>> metric_info("loss").higher_is_better
        False
    """
    if name not in _METRICS:
        raise DataError(f"unknown metric {name!r}; use one of {', '.join(_METRICS)}")
    return _METRICS[name]


def find_metric(text: str, start: Path) -> RequestedMetric:
    """Find the metric that a setting names, without importing a user's code.

    Args:
        text: The name of a built-in metric, ``MODULE:CLASS``, or the path of an ``evaluate``
            module: a script, or a folder that contains a script of the folder's name.
        start: The folder that a relative path starts in.

    Returns:
        The metric's name and where to load it from.

    Raises:
        DataError: There is no such metric, or it has the name of a built-in one.

    Example:
        >>> from pathlib import Path
        >>> from phi3_lora_qa.metrics import find_metric
        >>> find_metric("chrf", Path())
        RequestedMetric(name='chrf', import_path='')
    """
    if text in _METRICS:
        return RequestedMetric(name=text)
    from phi3_lora_qa.metrics.custom import find_custom

    name, import_path = find_custom(text, start)
    if name in _METRICS:
        raise DataError(
            f"the metric {escape(text, 80)} has the name of a built-in metric; rename it"
        )
    return RequestedMetric(name=name, import_path=import_path)


def metrics_to_measure(
    requested: Iterable[RequestedMetric], in_limits: Iterable[str]
) -> tuple[MetricInfo, ...]:
    """Return the metrics to measure: the default ones, requested ones, and those of limits.

    Args:
        requested: From :func:`find_metric`.
        in_limits: The names of the metrics that limits use.

    Returns:
        The built-in metrics in the order of the catalogue, then the user's own.

    Raises:
        DataError: A user's metric cannot be loaded.

    Example:
        >>> from phi3_lora_qa.metrics import metrics_to_measure
        >>> "bleu" in {info.name for info in metrics_to_measure((), ["bleu"])}
        True
    """
    requested = tuple(requested)
    names = {metric.name for metric in requested} | set(in_limits)
    built_in = [info for info in _METRICS.values() if info.default or info.name in names]
    custom = (_load_info(m) for m in dict.fromkeys(requested) if m.import_path)
    return (*built_in, *custom)


def per_item(info: MetricInfo, items: Sequence[Item], answers: Sequence[str]) -> list[float]:
    """Score each answer to the item at the same position.

    Args:
        info: A metric of answers.
        items: The items; the metric must apply to each.
        answers: What a model wrote; may contain anything, including lone surrogates.

    Returns:
        One score within the metric's span for each answer.

    Raises:
        DataError: The metric is not computed from answers or fails, or the lengths differ.

    Example:
        >>> from phi3_lora_qa.data.chat_items import Item
        >>> from phi3_lora_qa.metrics import metric_info, per_item
        >>> item = Item(id="capital", prompt=(), reference="the city of Rome")
        >>> per_item(metric_info("token_f1"), [item, item], ["The city of Rome.", "Rome"])
        [1.0, 0.4]
    """
    if info.name in FROM_SCORING:
        raise DataError(
            f"{info.name} is not a metric of answers; use one of {', '.join(metric_names())}"
        )
    if len(answers) != len(items):
        raise DataError(f"{len(answers)} answers to {len(items)} items; pass one for each item")
    if not answers:
        return []
    references = [checks_json(i.checks) if info.check_kinds else i.reference for i in items]
    if info.import_path:
        from phi3_lora_qa.metrics.custom import compute_custom

        return compute_custom(info.import_path, [item.id for item in items], answers, references)
    from phi3_lora_qa.metrics.modules import compute

    return compute(info.name, answers, references)


def _load_info(metric: RequestedMetric) -> MetricInfo:
    from phi3_lora_qa.metrics.custom import score_range

    binary, span = score_range(metric.import_path)
    return MetricInfo(name=metric.name, binary=binary, span=span, import_path=metric.import_path)
