"""Which scores are paired, and what their interval is of."""

import math
from dataclasses import replace

import pytest

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.gate.paired_scores import (
    ComparisonConfig,
    PairedScores,
    SkippedItem,
    pair_scores,
)
from phi3_lora_qa.metrics import MetricInfo, metric_info
from phi3_lora_qa.scoring.score_items import ItemScore
from tests.gate.rows import noisy, row

LOSS, EXACT = metric_info("loss"), metric_info("exact_match")


def skipped(number: int, loss: float, answer: str = "yes") -> SkippedItem:
    ask = Message(role="user", content="?")
    item = Item(id=f"s{number}", prompt=(ask,), reference="yes", group="general")
    score = ItemScore(item_id=item.id, loss=loss, tokens=3, answer=answer, stopped=True)
    return SkippedItem(item=item, base=score)


def test_rows_of_the_group_with_a_score_are_paired_in_their_order() -> None:
    rows = [row(0, loss=0.5), row(1, loss=-0.5), row(2, group="target")]
    failed = [replace(row(3), tuned_error="no loss"), replace(row(4), base_error="no loss")]
    pairs = pair_scores([*rows, *failed], "general", LOSS)
    assert pairs
    assert (pairs.ids, pairs.against) == (["general:0", "general:1"], "base")
    assert (pairs.before, pairs.after) == ([1.0, 2.0], [1.5, 1.5])
    assert pairs.difference == 0.0
    assert pair_scores([replace(row(0), scores={})], "general", EXACT) is None
    assert pair_scores(rows, "safety", LOSS) is None


def test_a_baseline_takes_the_place_of_the_base_and_must_have_every_item() -> None:
    rows, then = [row(0, loss=0.5), row(1)], [row(1, loss=0.25), row(0, loss=-0.25)]
    pairs = pair_scores(rows, "general", LOSS, then)
    assert pairs
    assert (pairs.against, pairs.before, pairs.after) == ("baseline", [0.75, 2.25], [1.5, 2.0])
    assert pair_scores(rows, "general", LOSS, then[1:]) is None
    assert pair_scores(rows, "general", LOSS, ()) is None


def test_the_skipped_items_of_the_group_bring_the_scores_of_the_base() -> None:
    rest = [skipped(0, 7.0), skipped(1, 8.0, answer="no")]
    other = replace(rest[0], item=replace(rest[0].item, group="target"))
    losses = pair_scores([row(0)], "general", LOSS, skipped=[*rest, other])
    assert losses
    assert losses.rest == [7.0, 8.0]
    exact = pair_scores([row(0)], "general", EXACT, skipped=rest)
    assert exact
    assert exact.rest == [1.0, 0.0]
    accepted = [row(0, loss=1.0), replace(row(1, loss=2.0), id="s0"), replace(row(2), id="s1")]
    compared = pair_scores([row(0)], "general", LOSS, accepted, rest)
    assert compared
    assert compared.rest == [4.0, 3.0]
    assert pair_scores([row(0)], "general", LOSS, accepted[:2], rest) is None


def test_the_limits_share_the_error_probability() -> None:
    config = ComparisonConfig(limits=(), metrics=(), seed=0)
    three = replace(config, limits=(None,) * 3)  # type: ignore[arg-type]
    assert config.level == pytest.approx(3 * three.level)


def test_the_p_value_is_of_the_direction_that_is_worse() -> None:
    worse = pair_scores(noisy(0.3), "general", LOSS)
    better = pair_scores(noisy(-0.3), "general", LOSS)
    assert worse
    assert better
    assert worse.worse_p_value(0) < 0.01 < 0.9 < better.worse_p_value(0)


@pytest.mark.parametrize(("place", "is_predicted"), [("", True), ("own:Length", False)])
def test_nothing_is_predicted_for_a_custom_metric_without_a_span(
    place: str, is_predicted: bool
) -> None:
    """It may be a length or a reward: the range of the scores not yet seen is unknown."""
    pairs = PairedScores(
        group="target",
        info=MetricInfo(name="own", span=None, import_path=place),
        against="base",
        ids=[str(n) for n in range(72)],
        before=[2.0] * 72,
        after=[0.5] * 72,
        clusters=[""] * 72,
        rest=[2.0] * 100,
    )
    interval = pairs.compare(ComparisonConfig(limits=(), metrics=(), seed=0))
    assert math.isfinite(interval.low) == math.isfinite(interval.high) == is_predicted
