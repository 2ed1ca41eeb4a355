"""Rows to metrics: what is paired with what, which interval judges it, and what the alarm sees."""

import math
from dataclasses import replace

import numpy as np
import pytest

from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.gate import comparison
from phi3_lora_qa.metrics import MetricInfo, metrics_to_measure
from phi3_lora_qa.record import ItemRow, Metric, Outcome

USUAL = metrics_to_measure((), ())
JUDGED = [info for info in USUAL if not info.relative]


def measure(*given: object) -> tuple[Metric, ...]:
    rows, limits, seed, *baseline = given
    demands = comparison.ComparisonConfig(
        limits=limits,  # type: ignore[arg-type]
        metrics=USUAL,
        seed=seed,  # type: ignore[arg-type]
        baseline=(*baseline, ())[0],  # type: ignore[arg-type]
    )
    return comparison.measure(rows, demands)  # type: ignore[arg-type]


def needed(rows: list[ItemRow], limit: Limit, seed: int) -> int:
    return comparison.needed(
        rows, limit, comparison.ComparisonConfig(limits=(limit,), metrics=USUAL, seed=seed)
    )


def regression_tests(rows: list[ItemRow], seed: int) -> tuple[comparison.RegressionTest, ...]:
    return comparison.regression_tests(
        rows, comparison.ComparisonConfig(limits=(), metrics=USUAL, seed=seed)
    )


def row(number: int, *, loss: float = 0.0, right: float = 1.0, group: str = "general") -> ItemRow:
    """One item whose loss changed by ``loss``, answered by the base and, as ``right``, by us."""
    level = 1.0 + number % 7
    scores = dict.fromkeys((info.name for info in USUAL if info.name != "loss"), (1.0, right))
    return ItemRow(
        id=f"{group}:{number}",
        group=group,
        prompt="user: ?",
        reference="yes",
        base_answer="yes",
        tuned_answer="yes" if right else "no",
        base_loss=level,
        tuned_loss=level + loss,
        tokens=3,
        scores=scores,
    )


def limit(metric: str = "loss", value: float = 0.1, against: str = "base") -> Limit:
    return Limit(group="general", metric=metric, rule="no_worse_than", value=value, against=against)


def noisy(change: float, n: int = 40, seed: int = 0) -> list[ItemRow]:
    noise = np.random.default_rng(seed).normal(change, 0.05, size=n)
    return [row(i, loss=float(noise[i])) for i in range(n)]


def test_a_baseline_is_paired_by_id_and_judged_for_itself() -> None:
    now, then = noisy(0.05), noisy(-0.3, seed=1)
    limits = (limit(), limit(against="baseline"))
    found = [m for m in measure(now, limits, 0, then[::-1]) if m.limit]
    assert [(m.against, m.outcome) for m in found] == [
        ("base", Outcome.PASSED),
        ("baseline", Outcome.FAILED),
    ]
    assert found[1].base == pytest.approx(np.mean([r.tuned_loss for r in then]))
    assert found[1].limit == "loss no worse than the baseline by more than 0.1"


def test_without_a_baseline_or_its_metric_there_is_no_figure_for_it() -> None:
    now, beside = noisy(0.0), (limit(against="baseline"), limit("exact_match", against="baseline"))
    bare = [replace(r, scores={}) for r in now]
    assert [m.metric for m in measure(now, beside, 0) if m.limit] == []
    assert [m.metric for m in measure(now, beside, 0, bare) if m.limit] == ["loss"]
    assert [m.metric for m in measure(now, beside, 0, now[1:]) if m.limit] == []
    assert needed(now, beside[0], 0) == 0


def test_the_figures_against_the_base_are_there_whatever_the_limits_ask() -> None:
    metrics = measure(noisy(0.0), (limit(against="baseline"),), 0)
    assert [m.metric for m in metrics] == [info.name for info in USUAL]
    assert {m.outcome for m in metrics} == {Outcome.NOT_RUN}


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
    """Five of five got worse: 1 in 32 by chance, which is nothing among twenty comparisons."""
    few = [row(i, loss=0.1 * (i + 1), group="small") for i in range(5)]
    assert any(a.raised for a in regression_tests(few, 0)) is False
    assert any(0.05 < a.p_value < 0.5 for a in regression_tests(few, 0))


@pytest.mark.parametrize(("place", "foreseen"), [("", True), ("own:Length", False)])
def test_nothing_is_foreseen_of_a_metric_of_ones_own_without_a_span(
    place: str, foreseen: bool
) -> None:
    """It could be a length, or a reward: no range of scores not yet seen can be assumed."""
    pairs = comparison._Pairs(
        group="target",
        info=MetricInfo(name="own", span=None, import_path=place),
        against="base",
        ids=[str(n) for n in range(72)],
        before=[2.0] * 72,
        after=[0.5] * 72,
        clusters=[""] * 72,
        rest=[2.0] * 100,
    )
    interval = pairs.compare(comparison.ComparisonConfig(limits=(), metrics=(), seed=0))
    assert math.isfinite(interval.low) == math.isfinite(interval.high) == foreseen
