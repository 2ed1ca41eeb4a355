"""The tuned model is asked until the outcome is certain, and no error ends that early."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from phi3_lora_qa.gate.checks.quality import every_item_is_scored
from phi3_lora_qa.gate.early_stopping import score_until_settled
from phi3_lora_qa.record import Metric
from phi3_lora_qa.scoring.score_items import ItemScore
from phi3_lora_qa.settings import with_order
from phi3_lora_qa.stats.full_suite_bounds import sampling_key
from tests.gate.conftest import MakeBench

pytestmark = pytest.mark.slow

LIMITS = """
[[limit]]
group = "target"
metric = "loss"
rule = "improve_by"
value = 1.0

[[limit]]
group = "general"
metric = "loss"
rule = "no_worse_than"
value = 0.1
"""


@pytest.fixture
def thresholds(tmp_path: Path) -> Path:
    place = tmp_path / "limits.toml"
    place.write_text(LIMITS)
    return place


def judged(metrics: Sequence[Metric]) -> dict[str, object]:
    return {f"{m.group} {m.metric} {m.limit}": m.outcome for m in metrics if m.limit}


def test_a_clear_case_spares_a_third_of_the_items_and_has_the_same_outcome(
    make_bench: MakeBench, thresholds: Path
) -> None:
    bench = make_bench(early_stop="on", thresholds=thresholds)
    with bench.run.quietly("quality"):
        scored, spared = len(bench.rows), len(bench.spared)
        early = bench.metrics
        held = every_item_is_scored(bench)
    assert scored + spared == 300
    assert spared >= 100
    assert held.measured == {"scored": scored, "skipped_early": spared}
    assert f"{spared} were spared" in held.message
    loss = next(m for m in early if (m.group, m.metric) == ("target", "loss"))
    assert loss.n < 150
    assert "predicted for all 150 items" in loss.method
    bench.__dict__.pop("tuned_scores")
    bench.__dict__.pop("asked")
    bench.__dict__.pop("rows")
    bench.__dict__.pop("spared")
    bench.__dict__.pop("metrics")
    bench.run.settings = replace(bench.run.settings, early_stop="off")
    with bench.run.quietly("quality"):
        whole = bench.metrics
        assert len(bench.rows) == 300
    assert judged(early) == judged(whole)


def test_a_strict_profile_asks_everything(make_bench: MakeBench) -> None:
    bench = make_bench(early_stop="on", profile="strict")
    with bench.run.quietly("quality"):
        assert bench.spared == ()


def test_a_group_without_limits_is_asked_whole(make_bench: MakeBench, thresholds: Path) -> None:
    thresholds.write_text(LIMITS.partition("\n\n")[0])
    bench = make_bench(early_stop="on", thresholds=thresholds)
    with bench.run.quietly("quality"):
        assert {spared.item.group for spared in bench.spared} == {"target"}


def score(bench_id: str, loss: float, error: str = "") -> ItemScore:
    return ItemScore(item_id=bench_id, loss=loss, tokens=5, answer="x", stopped=True, error=error)


def test_an_item_that_cannot_be_scored_lets_no_group_end_early(
    make_bench: MakeBench, thresholds: Path
) -> None:
    bench = make_bench(early_stop="on", thresholds=thresholds)
    items = bench.target.items
    base = [score(item.id, 5.0) for item in items]

    def tuned(asked: Sequence[object], broken: bool) -> list[ItemScore]:
        first = min(item.id for item in asked)  # type: ignore[attr-defined]
        return [
            score(item.id, 1.0, "it broke" if broken and item.id == first else "")  # type: ignore[attr-defined]
            for item in asked
        ]

    whole = score_until_settled(bench, base, lambda asked: tuned(asked, broken=False))
    assert len(whole) < len(items)
    assert [s.item_id for s in whole] == [i.id for i in items if i.id in {s.item_id for s in whole}]
    portions: list[int] = []

    def broken(asked: Sequence[object]) -> list[ItemScore]:
        portions.append(len(asked))
        return tuned(asked, broken=True)

    found = score_until_settled(bench, base, broken)
    # The first portion's broken item is in one group: the other one may end.
    group = {item.id: item.group for item in items}
    failed = {group[s.item_id] for s in found if s.error}
    for name in failed:
        assert sum(group[s.item_id] == name for s in found) == 150
    assert portions[0] == 96


def test_an_item_that_the_base_cannot_do_lets_its_group_not_end_early(
    make_bench: MakeBench, thresholds: Path
) -> None:
    """Wherever it stands in the order: an item that was spared would hide the error."""
    bench = make_bench(early_stop="on", thresholds=thresholds)
    items = bench.target.items
    last = max(
        (item for item in items if item.group == "target"),
        key=lambda item: sampling_key(item.id, 0),
    )
    base = [score(item.id, 5.0, "it broke" if item is last else "") for item in items]
    found = score_until_settled(bench, base, lambda asked: [score(i.id, 1.0) for i in asked])
    assert last.id in {score.item_id for score in found}
    whole = [score(item.id, 5.0) for item in items]
    found = score_until_settled(bench, whole, lambda asked: [score(i.id, 1.0) for i in asked])
    assert last.id not in {score.item_id for score in found}


def test_an_adapter_that_is_right_on_the_first_items_of_an_order_gains_nothing(
    make_bench: MakeBench, thresholds: Path
) -> None:
    """Who knows the order needs to be right on 48 of 150 items; nobody knows the one of a run."""
    bench = make_bench(early_stop="on", thresholds=thresholds)
    items = bench.target.items
    base = [score(item.id, 5.0) for item in items]
    known = sorted(items, key=lambda item: sampling_key(item.id, 0))
    right = {
        item.id
        for group in ("target", "general")
        for item in [one for one in known if one.group == group][:80]
    }

    def tuned(asked: Sequence[object]) -> list[ItemScore]:
        return [
            score(item.id, 1.0 if item.id in right else 11.0)  # type: ignore[attr-defined]
            for item in asked
        ]

    def useless() -> int:
        return sum(one.item_id not in right for one in score_until_settled(bench, base, tuned))

    assert bench.run.settings.order == 0
    assert useless() == 0  # this is what an order that is known would be worth
    given = bench.run.settings
    for _ in range(10):
        bench.run.settings = with_order(given)
        assert useless() > 10
