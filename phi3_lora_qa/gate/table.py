"""From scores to rows and metrics: base and tuned side by side, compared pair by pair."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat import Item
from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.metrics import known_metrics, metric_info, metric_names, per_item
from phi3_lora_qa.record import ItemRow, Metric, Outcome
from phi3_lora_qa.stats.paired import Interval, compare, decide, items_needed

if TYPE_CHECKING:
    from phi3_lora_qa.scoring.score import ItemScore

NO_LIMIT = Outcome.NOT_RUN
"""The outcome of a comparison that was not judged, because nothing was asked of it."""


BASE, TUNED = "base: ", "tuned: "
"""How an item's error begins, by the model that it befell."""


def join_scores(
    items: Sequence[Item], base: Sequence["ItemScore"], tuned: Sequence["ItemScore"]
) -> tuple[ItemRow, ...]:
    """Return one row for each item, with every text metric under both models."""
    references = [item.reference for item in items]
    scores = {
        name: list(
            zip(
                per_item(name, [score.answer for score in base], references),
                per_item(name, [score.answer for score in tuned], references),
                strict=True,
            )
        )
        for name in metric_names()
    }
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
                scores={name: pairs[number] for name, pairs in scores.items()},
                error="; ".join(side + s.error for side, s in sides if s.error),
            )
        )
    return tuple(rows)


def measure(rows: Sequence[ItemRow], limits: Sequence[Limit], seed: int) -> tuple[Metric, ...]:
    """Compare every metric in every group; judge it by each of its limits.

    Rows with an error take no part; the check that every item is scored fails for them.
    """
    metrics = []
    for group in sorted({row.group for row in rows}):
        for name in known_metrics():
            interval = _interval(rows, group, name, seed)
            mine = [limit for limit in limits if (limit.group, limit.metric) == (group, name)]
            judged: list[Limit | None] = [*mine] or [None]
            metrics += [_metric(group, name, interval, limit) for limit in judged]
    return tuple(metrics)


def needed(rows: Sequence[ItemRow], limit: Limit, seed: int) -> int:
    """Estimate how many items would decide a limit."""
    interval = _interval(rows, limit.group, limit.metric, seed)
    better = metric_info(limit.metric).higher_is_better
    return items_needed(interval, limit.rule, limit.value, better)


def _interval(rows: Sequence[ItemRow], group: str, name: str, seed: int) -> Interval:
    info = metric_info(name)
    pairs = [
        row.scores[name] if info.generated else (row.base_loss, row.tuned_loss)
        for row in rows
        if row.group == group and not row.error
    ]
    return compare(
        [base for base, _ in pairs],
        [tuned for _, tuned in pairs],
        seed=seed,
        binary=info.binary,
        span=info.span,
    )


def _metric(group: str, name: str, interval: Interval, limit: Limit | None) -> Metric:
    outcome = NO_LIMIT
    if limit:
        better = metric_info(name).higher_is_better
        outcome = decide(interval, limit.rule, limit.value, better)
    low, high = interval.bounds(limit.rule if limit else "")
    return Metric(
        group=group,
        metric=name,
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
