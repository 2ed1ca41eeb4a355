"""The tuned model is scored until the outcome is certain; an error never ends that early."""

from collections.abc import Sequence
from pathlib import Path

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.gate.comparison import select_metrics
from phi3_lora_qa.gate.early_stopping import score_until_decided
from phi3_lora_qa.gate.paired_scores import ComparisonConfig
from phi3_lora_qa.scoring.score_items import ItemScore
from phi3_lora_qa.settings import resolve, with_order
from phi3_lora_qa.stats.full_suite_bounds import sampling_key

LIMITS = (
    Limit(group="target", metric="loss", rule="improve_by", value=1.0),
    Limit(group="general", metric="loss", rule="no_worse_than", value=0.1),
)
ITEMS = tuple(
    Item(
        id=f"{group}-{number}",
        prompt=(Message(role="user", content=f"{group} {number}?"),),
        reference="x",
        group=group,
    )
    for group in ("target", "general")
    for number in range(150)
)


def config(order: int = 0) -> ComparisonConfig:
    return ComparisonConfig(limits=LIMITS, metrics=select_metrics((), LIMITS), seed=0, order=order)


def score(item: Item, loss: float, error: str = "") -> ItemScore:
    return ItemScore(item_id=item.id, loss=loss, tokens=5, answer="x", stopped=True, error=error)


def score_all(items: Sequence[Item]) -> list[ItemScore]:
    return [score(item, 1.0) for item in items]


BASE = [score(item, 5.0) for item in ITEMS]


def test_a_clear_case_needs_a_part_of_the_items_in_their_order() -> None:
    found = score_until_decided(ITEMS, BASE, score_all, config())
    scored = {score.item_id for score in found}
    assert len(found) < len(ITEMS)
    assert [score.item_id for score in found] == [i.id for i in ITEMS if i.id in scored]


def test_an_item_that_cannot_be_scored_lets_its_group_be_scored_completely() -> None:
    sizes: list[int] = []

    def first_is_broken(items: Sequence[Item]) -> list[ItemScore]:
        sizes.append(len(items))
        first = min(item.id for item in items)
        return [score(item, 1.0, "it broke" if item.id == first else "") for item in items]

    found = score_until_decided(ITEMS, BASE, first_is_broken, config())
    # The first batch's broken item is in one group: early stopping may end the other one.
    group = {item.id: item.group for item in ITEMS}
    failed = {group[score.item_id] for score in found if score.error}
    assert failed
    for name in failed:
        assert sum(group[score.item_id] == name for score in found) == 150
    assert sizes[0] == 96


def test_an_item_that_fails_with_the_base_lets_its_group_be_scored_completely() -> None:
    """Even the last one in the order: a skipped item would hide the error."""
    last = max(
        (item for item in ITEMS if item.group == "target"),
        key=lambda item: sampling_key(item.id, 0),
    )
    base = [score(item, 5.0, "it broke" if item is last else "") for item in ITEMS]
    found = score_until_decided(ITEMS, base, score_all, config())
    assert last.id in {score.item_id for score in found}
    found = score_until_decided(ITEMS, BASE, score_all, config())
    assert last.id not in {score.item_id for score in found}


def test_an_adapter_that_is_right_on_the_first_items_of_a_known_order_gains_nothing(
    tmp_path: Path,
) -> None:
    """With a known order it has to be right on 48 of 150 items; nobody knows that of a run."""
    in_order = sorted(ITEMS, key=lambda item: sampling_key(item.id, 0))
    right = {
        item.id
        for group in ("target", "general")
        for item in [one for one in in_order if one.group == group][:80]
    }

    def right_on_some(items: Sequence[Item]) -> list[ItemScore]:
        return [score(item, 1.0 if item.id in right else 11.0) for item in items]

    def wrong_answers(order: int) -> int:
        found = score_until_decided(ITEMS, BASE, right_on_some, config(order))
        return sum(score.item_id not in right for score in found)

    assert wrong_answers(0) == 0  # the advantage that a known order would be
    settings = resolve({}, {}, {}, tmp_path, None)
    for _ in range(10):
        assert wrong_answers(with_order(settings).order) > 10


def test_a_group_without_limits_is_scored_completely() -> None:
    limits = LIMITS[:1]
    only = ComparisonConfig(limits=limits, metrics=select_metrics((), limits), seed=0)
    found = {score.item_id for score in score_until_decided(ITEMS, BASE, score_all, only)}
    assert {item.group for item in ITEMS if item.id not in found} == {"target"}
