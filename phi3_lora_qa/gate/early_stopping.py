"""The tuned model is asked until what the whole suite would say is certain.

In an order that is drawn for the run, and recorded: whoever knew it before could make an adapter
that is right on the first items alone (docs/decisions/0011).

The base is always asked everything: it is scored before an adapter is attached, and once for all
adapters and runs.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.gate.comparison import is_decided
from phi3_lora_qa.gate.item_rows import join_scores
from phi3_lora_qa.gate.paired_scores import SkippedItem
from phi3_lora_qa.stats.full_suite_bounds import next_batch_size, sampling_key

if TYPE_CHECKING:
    from phi3_lora_qa.gate.bench import Bench
    from phi3_lora_qa.scoring.score_items import ItemScore

Scorer = Callable[[Sequence[Item]], Sequence["ItemScore"]]


def score_until_settled(
    bench: "Bench", base: Sequence["ItemScore"], score: Scorer
) -> tuple["ItemScore", ...]:
    """Score the items of each group in the order drawn, in portions that grow.

    Returns:
        The scores in the items' order, without those of the items that were spared.
    """
    items, order = bench.target.items, bench.run.settings.order
    known = {score.item_id: score for score in base}
    found: dict[str, ItemScore] = {}
    waiting: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: sampling_key(item.id, order)):
        waiting.setdefault(item.group, []).append(item)
    groups = {name: tuple(group) for name, group in waiting.items()}
    while waiting:
        asked = [
            item
            for name, rest in waiting.items()
            for item in rest[: next_batch_size(len(groups[name]) - len(rest))]
        ]
        found |= {score.item_id: score for score in score(asked)}
        left = {
            name: [item for item in rest if item.id not in found] for name, rest in waiting.items()
        }
        waiting = {
            name: rest
            for name, rest in left.items()
            if rest and not _settled(bench, groups[name], rest, known, found)
        }
    return tuple(found[item.id] for item in items if item.id in found)


def _settled(
    bench: "Bench",
    group: Sequence[Item],
    rest: Sequence[Item],
    base: "dict[str, ItemScore]",
    tuned: "dict[str, ItemScore]",
) -> bool:
    asked = [item for item in group if item.id in tuned]
    rows = join_scores(
        asked,
        [base[item.id] for item in asked],
        [tuned[item.id] for item in asked],
        bench.measured,
    )
    return is_decided(
        rows, bench.demands, [SkippedItem(item=item, base=base[item.id]) for item in rest]
    )
