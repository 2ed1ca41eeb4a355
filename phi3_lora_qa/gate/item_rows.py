"""Item rows: the scores of base and tuned model on each item, side by side."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.data.answer_checks import checks_json
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.metrics import MetricInfo, catalogue, per_item
from phi3_lora_qa.record import ItemRow, Turn

if TYPE_CHECKING:
    from phi3_lora_qa.scoring.score_items import ItemScore


def join_scores(
    items: Sequence[Item],
    base: Sequence["ItemScore"],
    tuned: Sequence["ItemScore"],
    metrics: Sequence[MetricInfo],
) -> tuple[ItemRow, ...]:
    """Return one row for each item, with every metric of answers that applies to it.

    Args:
        items: The items that both models were evaluated on.
        base: The base's score of each item.
        tuned: The tuned model's score of each item.
        metrics: The metrics to compute.
    """
    scores: list[dict[str, tuple[float, float]]] = [{} for _ in items]
    for info in (info for info in metrics if info.generated):
        places = [n for n, item in enumerate(items) if info.applies(item)]
        scored = [items[n] for n in places]
        before = score_side(info, scored, [base[n] for n in places], base=True)
        after = score_side(info, scored, [tuned[n] for n in places], base=False)
        for n, pair in zip(places, zip(before, after, strict=True), strict=True):
            if not any(map(math.isnan, pair)):  # a server returns less than a local model
                scores[n][info.name] = pair
    return tuple(
        ItemRow(
            id=item.id,
            group=item.group,
            prompt=prompt_turns(item),
            reference=item.reference,
            base_answer=of_base.answer,
            tuned_answer=of_tuned.answer,
            base_loss=of_base.loss,
            tuned_loss=of_tuned.loss,
            tokens=of_tuned.tokens,
            scores=scores[number],
            base_error=of_base.error,
            tuned_error=of_tuned.error,
            cluster=item.cluster,
            extras=extras_text(item),
        )
        for number, (item, of_base, of_tuned) in enumerate(zip(items, base, tuned, strict=True))
    )


def prompt_turns(item: Item) -> tuple[Turn, ...]:
    """Return the turns before the answer, as the record stores them."""
    return tuple(Turn(role=turn.role, content=turn.content) for turn in item.prompt)


def extras_text(item: Item) -> str:
    """Return an item's choices and checks as JSON text; empty if it has neither."""
    if not item.choices and not item.checks:
        return ""
    return json.dumps({"choices": item.choices, "checks": json.loads(checks_json(item.checks))})


def score_of(row: ItemRow | None, info: MetricInfo) -> tuple[float, float] | None:
    """Return a metric of base and tuned model; None if it was not measured."""
    if row is None:
        return None
    return row.scores.get(info.name) if info.generated else (row.base_loss, row.tuned_loss)


def score_side(
    info: MetricInfo, items: Sequence[Item], scores: Sequence["ItemScore"], *, base: bool
) -> Sequence[float]:
    """Return a metric of one model on each item; NaN if it was not measured.

    Args:
        info: The metric.
        items: The items; the metric must apply to each.
        scores: The model's score of each item.
        base: Whether the model is the base, which agrees with itself.
    """
    match info.name:
        case catalogue.STOPPED:
            return [float(score.stopped) for score in scores]
        case catalogue.CHOICE:
            return [_choice_score(item, score) for item, score in zip(items, scores, strict=True)]
        case catalogue.DIVERGENCE:
            return [0.0 if base else score.divergence for score in scores]
        case catalogue.AGREEMENT:
            return [1.0 if base else score.agreement for score in scores]
        case _:
            return per_item(info, items, [score.answer for score in scores])


def _choice_score(item: Item, score: "ItemScore") -> float:
    if score.choice < 0:
        return math.nan
    return float(item.choices[score.choice] == item.reference)
