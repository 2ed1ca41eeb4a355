"""Rows to metrics: what is paired with what, which interval judges it, and the regression alarm."""

import math
from dataclasses import replace

import numpy as np
import pytest

from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.gate import comparison
from phi3_lora_qa.gate.paired_scores import ComparisonConfig
from phi3_lora_qa.record import ItemRow, LimitEntry, Metric, Outcome
from tests.gate.rows import JUDGED, METRICS, limit, noisy, row


def measure(*given: object) -> tuple[Metric, ...]:
    rows, limits, seed, *baseline = given
    config = ComparisonConfig(
        limits=limits,  # type: ignore[arg-type]
        metrics=METRICS,
        seed=seed,  # type: ignore[arg-type]
        baseline=(*baseline, ())[0],  # type: ignore[arg-type]
    )
    return comparison.measure(rows, config)  # type: ignore[arg-type]


def items_to_decide(rows: list[ItemRow], limit: Limit, seed: int) -> int:
    return comparison.items_to_decide(
        rows, limit, ComparisonConfig(limits=(limit,), metrics=METRICS, seed=seed)
    )


def regression_tests(rows: list[ItemRow], seed: int) -> tuple[comparison.RegressionTest, ...]:
    return comparison.regression_tests(
        rows, ComparisonConfig(limits=(), metrics=METRICS, seed=seed)
    )


def test_a_baseline_is_paired_by_id_and_judged_for_itself() -> None:
    now, then = noisy(0.05), noisy(-0.3, seed=1)
    limits = (limit(), limit(against="baseline"))
    found = [m for m in measure(now, limits, 0, then[::-1]) if m.limit]
    assert [(m.against, m.outcome) for m in found] == [
        ("base", Outcome.PASSED),
        ("baseline", Outcome.FAILED),
    ]
    assert found[1].base == pytest.approx(np.mean([r.tuned_loss for r in then]))
    assert found[1].limit == LimitEntry(
        rule="no_worse_than", value=0.1, against="baseline", group="general", metric="loss"
    )


def test_without_a_baseline_or_its_metric_there_is_no_figure_for_it() -> None:
    now, limits = noisy(0.0), (limit(against="baseline"), limit("exact_match", against="baseline"))
    bare = [replace(r, scores={}) for r in now]
    assert [m.metric for m in measure(now, limits, 0) if m.limit] == []
    assert [m.metric for m in measure(now, limits, 0, bare) if m.limit] == ["loss"]
    assert [m.metric for m in measure(now, limits, 0, now[1:]) if m.limit] == []
    assert items_to_decide(now, limits[0], 0) == 0


def test_the_comparison_with_the_base_is_measured_without_a_limit_too() -> None:
    metrics = measure(noisy(0.0), (limit(against="baseline"),), 0)
    assert [m.metric for m in metrics] == [info.name for info in METRICS]
    assert {(m.limit, m.outcome) for m in metrics} == {(None, None)}


def test_items_of_one_document_count_as_one_observation() -> None:
    lost = [row(i, right=0.0 if i < 5 else 1.0) for i in range(60)]
    apart, together = (
        next(m for m in measure(rows, (), 0) if m.metric == "exact_match")
        for rows in (lost, [replace(r, cluster=f"page {i // 5}") for i, r in enumerate(lost)])
    )
    assert "12 clusters" in together.method
    assert together.difference == apart.difference
    assert together.low < apart.low


def test_the_alarm_goes_off_for_what_a_limit_allows() -> None:
    rows = [*noisy(0.03), *(row(i, group="target") for i in range(20))]
    (judged,) = (m for m in measure(rows, (limit(),), 0) if m.limit)
    assert judged.outcome is Outcome.PASSED
    raised = [alarm for alarm in regression_tests(rows, 0) if alarm.raised]
    assert [(alarm.group, alarm.metric) for alarm in raised] == [("general", "loss")]
    assert math.isclose(raised[0].difference, judged.difference)


def test_what_got_better_or_stayed_raises_no_alarm() -> None:
    found = regression_tests([*noisy(-0.2), *(row(i, group="target") for i in range(20))], 0)
    assert len(found) == 2 * len(JUDGED)
    assert not any(alarm.raised for alarm in found)


def test_an_alarm_allows_for_how_many_comparisons_were_looked_at() -> None:
    """Five of five got worse: 1 in 32 by chance, which is common among twenty comparisons."""
    few = [row(i, loss=0.1 * (i + 1), group="small") for i in range(5)]
    assert any(a.raised for a in regression_tests(few, 0)) is False
    assert any(0.05 < a.p_value < 0.5 for a in regression_tests(few, 0))
