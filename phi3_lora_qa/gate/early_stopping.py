"""Early stopping: the tuned model is scored until the outcome on the whole suite is certain.

The items are scored in a random order that is drawn for each run and recorded. If it were known in
advance, an adapter could be made that is right on the first items only (docs/decisions/0011).

The base is always scored on all items: once for all adapters and runs, before an adapter is
attached.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.gate.comparison import is_decided
from phi3_lora_qa.gate.item_rows import join_scores
from phi3_lora_qa.gate.paired_scores import ComparisonConfig, SkippedItem
from phi3_lora_qa.stats.full_suite_bounds import next_batch_size, sampling_key

if TYPE_CHECKING:
    from phi3_lora_qa.scoring.score_items import ItemScore

ScoreItems = Callable[[Sequence[Item]], Sequence["ItemScore"]]


def score_until_decided(
    items: Sequence[Item],
    base_scores: Sequence["ItemScore"],
    score_items: ScoreItems,
    config: ComparisonConfig,
) -> tuple["ItemScore", ...]:
    """Score the items of each group in the drawn order, in batches that grow.

    Args:
        items: All items.
        base_scores: The base's scores of them, in the same order.
        score_items: Scores the tuned model on some items.
        config: The limits, metrics and order.

    Returns:
        The scores in the items' order, without the items that early stopping skipped.
    """
    by_id = {score.item_id: score for score in base_scores}
    tuned: dict[str, ItemScore] = {}
    waiting: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: sampling_key(item.id, config.order)):
        waiting.setdefault(item.group, []).append(item)
    groups = {name: tuple(group) for name, group in waiting.items()}
    while waiting:
        batch = [
            item
            for name, rest in waiting.items()
            for item in rest[: next_batch_size(len(groups[name]) - len(rest))]
        ]
        tuned |= {score.item_id: score for score in score_items(batch)}
        left = {
            name: [item for item in rest if item.id not in tuned] for name, rest in waiting.items()
        }
        waiting = {
            name: rest
            for name, rest in left.items()
            if rest and not _is_decided(groups[name], by_id, tuned, config)
        }
    return tuple(tuned[item.id] for item in items if item.id in tuned)


def _is_decided(
    group: Sequence[Item],
    base: "Mapping[str, ItemScore]",
    tuned: "Mapping[str, ItemScore]",
    config: ComparisonConfig,
) -> bool:
    scored = [item for item in group if item.id in tuned]
    rows = join_scores(
        scored,
        [base[item.id] for item in scored],
        [tuned[item.id] for item in scored],
        config.metrics,
    )
    skipped = [SkippedItem(item=item, base=base[item.id]) for item in group if item.id not in tuned]
    return is_decided(rows, config, skipped)
