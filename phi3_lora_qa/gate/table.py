"""From scores to rows and metrics: base and tuned side by side, compared pair by pair."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat import Item
from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.metrics import AskedMetric, MetricInfo, catalogue, measured, per_item
from phi3_lora_qa.record import ItemRow, Metric, Outcome
from phi3_lora_qa.stats.paired import Interval, compare, decide, items_needed

if TYPE_CHECKING:
    from phi3_lora_qa.scoring.score import ItemScore

NO_LIMIT = Outcome.NOT_RUN
"""The outcome of a comparison that was not judged, because nothing was asked of it."""


BASE, TUNED = "base: ", "tuned: "
"""How an item's error begins, by the model that it befell."""


def join_scores(
    items: Sequence[Item],
    base: Sequence["ItemScore"],
    tuned: Sequence["ItemScore"],
    metrics: Sequence[MetricInfo],
) -> tuple[ItemRow, ...]:
    """Return one row for each item, with every metric of answers that applies to it, both ways."""
    scores: list[dict[str, tuple[float, float]]] = [{} for _ in items]
    for info in (info for info in metrics if info.generated):
        places = [n for n, item in enumerate(items) if info.applies(item)]
        asked = [items[n] for n in places]
        old = _side(info, asked, [base[n] for n in places], base=True)
        new = _side(info, asked, [tuned[n] for n in places], base=False)
        for n, pair in zip(places, zip(old, new, strict=True), strict=True):
            if not any(map(math.isnan, pair)):  # a server tells less than a model
                scores[n][info.name] = pair
    rows = []
    for number, (item, before, after) in enumerate(zip(items, base, tuned, strict=True)):
        sides = ((BASE, before), (TUNED, after))
        rows.append(
            ItemRow(
                id=item.id,
                group=item.group,
                prompt="\n\n".join(f"{turn.role}: {turn.content}" for turn in item.prompt),
                reference=item.reference,
                base_answer=before.answer,
                tuned_answer=after.answer,
                base_loss=before.loss,
                tuned_loss=after.loss,
                tokens=after.tokens,
                scores=scores[number],
                error="; ".join(side + s.error for side, s in sides if s.error),
            )
        )
    return tuple(rows)


def chosen(asked: Sequence[AskedMetric], limits: Sequence[Limit]) -> tuple[MetricInfo, ...]:
    """Return the metrics to measure."""
    return measured(asked, [limit.metric for limit in limits])


def measure(
    rows: Sequence[ItemRow], limits: Sequence[Limit], seed: int, metrics: Sequence[MetricInfo]
) -> tuple[Metric, ...]:
    """Compare every metric in every group that it says something of; judge it by its limits.

    Rows with an error take no part; the check that every item is scored fails for them.
    """
    compared = []
    for group in sorted({row.group for row in rows}):
        asked = [row for row in rows if row.group == group]
        for info in metrics:
            if info.generated and all(info.name not in row.scores for row in asked):
                continue
            interval = _interval(rows, group, info, seed)
            mine = [limit for limit in limits if (limit.group, limit.metric) == (group, info.name)]
            judged: list[Limit | None] = [*mine] or [None]
            compared += [_metric(group, info, interval, limit) for limit in judged]
    return tuple(compared)


def needed(rows: Sequence[ItemRow], limit: Limit, seed: int, metrics: Sequence[MetricInfo]) -> int:
    """Estimate how many items would decide a limit."""
    info = next(info for info in metrics if info.name == limit.metric)
    interval = _interval(rows, limit.group, info, seed)
    return items_needed(interval, limit.rule, limit.value, info.higher_is_better)


def _side(
    info: MetricInfo, items: Sequence[Item], scores: Sequence["ItemScore"], *, base: bool
) -> Sequence[float]:
    """Return a metric of one model, NaN where it was not measured."""
    match info.name:
        case catalogue.STOPPED:
            return [float(score.stopped) for score in scores]
        case catalogue.CHOICE:
            return [_chosen(item, score) for item, score in zip(items, scores, strict=True)]
        case catalogue.DIVERGENCE:
            return [0.0 if base else score.divergence for score in scores]
        case catalogue.AGREEMENT:
            return [1.0 if base else score.agreement for score in scores]
        case _:
            return per_item(info, items, [score.answer for score in scores])


def _chosen(item: Item, score: "ItemScore") -> float:
    if score.choice < 0:
        return math.nan
    return float(item.choices[score.choice] == item.reference)


def _interval(rows: Sequence[ItemRow], group: str, info: MetricInfo, seed: int) -> Interval:
    pairs = [
        row.scores[info.name] if info.generated else (row.base_loss, row.tuned_loss)
        for row in rows
        if row.group == group and not row.error and (info.name in row.scores or not info.generated)
    ]
    return compare(
        [base for base, _ in pairs],
        [tuned for _, tuned in pairs],
        seed=seed,
        binary=info.binary,
        span=info.span,
    )


def _metric(group: str, info: MetricInfo, interval: Interval, limit: Limit | None) -> Metric:
    outcome = NO_LIMIT
    if limit:
        outcome = decide(interval, limit.rule, limit.value, info.higher_is_better)
    low, high = interval.bounds(limit.rule if limit else "")
    return Metric(
        group=group,
        metric=info.name,
        base=interval.mean_base,
        tuned=interval.mean_tuned,
        difference=interval.difference,
        low=low,
        high=high,
        method=interval.method,
        n=interval.n,
        limit=limit.describe() if limit else "",
        outcome=outcome,
    )
