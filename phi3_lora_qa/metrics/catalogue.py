"""Which metrics there are, which way is up, and the one call that computes them."""

from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.errors import DataError


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What a comparison must know of a metric.

    ``span`` is the smallest and the largest possible score, None where there is no limit;
    ``generated`` tells whether it is computed from generated answers.
    """

    name: str
    higher_is_better: bool
    binary: bool
    span: tuple[float, float] | None
    generated: bool


_UNIT = (0.0, 1.0)

_METRICS = {
    info.name: info
    for info in (
        MetricInfo(name="loss", higher_is_better=False, binary=False, span=None, generated=False),
        MetricInfo(
            name="exact_match", higher_is_better=True, binary=True, span=_UNIT, generated=True
        ),
        MetricInfo(
            name="token_f1", higher_is_better=True, binary=False, span=_UNIT, generated=True
        ),
        MetricInfo(name="rouge_l", higher_is_better=True, binary=False, span=_UNIT, generated=True),
    )
}


def known_metrics() -> tuple[str, ...]:
    """Return every metric that a limit may name; ``loss`` comes from scoring, not from here."""
    return tuple(_METRICS)


def metric_names() -> tuple[str, ...]:
    """Return the metrics that ``per_item`` computes from answers and references."""
    return tuple(info.name for info in _METRICS.values() if info.generated)


def metric_info(name: str) -> MetricInfo:
    """Return what is known of a metric.

    Raises:
        DataError: There is no such metric.
    """
    if name not in _METRICS:
        raise DataError(f"unknown metric {name!r}; use one of {', '.join(_METRICS)}")
    return _METRICS[name]


def per_item(name: str, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Score each answer against the reference of the same place.

    Args:
        name: One of ``metric_names()``.
        answers: What a model wrote; may hold anything, lone surrogates too.
        references: What it should have written.

    Returns:
        One score within [0, 1] for each pair.

    Raises:
        DataError: The metric is unknown or not computed from answers, or the lengths differ.
    """
    if not metric_info(name).generated:
        raise DataError(f"{name} is no metric of answers; use one of {', '.join(metric_names())}")
    if len(answers) != len(references):
        raise DataError(
            f"{len(answers)} answers against {len(references)} references; give one for each"
        )
    if not answers:
        return []
    from phi3_lora_qa.metrics.modules import compute

    return compute(name, answers, references)
