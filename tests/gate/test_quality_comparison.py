"""Scores, rows and metrics of one adapter: early stopping changes no outcome, the base is first."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.adapter_under_test import AdapterUnderTest
from phi3_lora_qa.gate.checks.quality import every_item_is_scored
from phi3_lora_qa.gate.model_scorer import ModelScorer
from phi3_lora_qa.gate.quality_comparison import QualityComparison
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.record import Metric
from tests.gate.builders import MakeSession, run_quietly

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
    path = tmp_path / "limits.toml"
    path.write_text(LIMITS)
    return path


def judged(metrics: Sequence[Metric]) -> dict[object, object]:
    return {metric.limit: metric.outcome for metric in metrics if metric.limit}


@pytest.mark.slow
def test_early_stopping_skips_a_third_of_the_items_and_has_the_same_outcome(
    make_session: MakeSession, thresholds: Path
) -> None:
    session = make_session(early_stop="on", thresholds=thresholds)
    with quiet():
        scored = len(session.comparison.compare_items())
        skipped = len(session.comparison.list_skipped())
        early = session.comparison.compute_metrics()
    assert scored + skipped == 300
    assert skipped >= 100
    outcome = run_quietly(every_item_is_scored, session)
    assert outcome.measured == {"scored": scored, "skipped_early": skipped}
    assert f"{skipped} were skipped by early stopping" in outcome.message
    loss = next(m for m in early if (m.group, m.metric) == ("target", "loss"))
    assert loss.n < 150
    assert "all 150 items" in loss.method
    session = make_session(early_stop="off", thresholds=thresholds)
    with quiet():
        assert len(session.comparison.compare_items()) == 300
        assert judged(early) == judged(session.comparison.compute_metrics())


@pytest.mark.slow
def test_a_strict_profile_scores_all_items(make_session: MakeSession) -> None:
    session = make_session(early_stop="on", profile="strict")
    with quiet():
        assert session.comparison.list_skipped() == ()


def test_an_empty_suite_is_an_error_with_a_fix(make_session: MakeSession) -> None:
    session = make_session()
    adapter = AdapterUnderTest(
        replace(session.job, items=()), session.adapter.copy, session.adapter.selection
    )
    comparison = QualityComparison(
        adapter,
        session.models,
        ModelScorer(session.settings, session.models),
        session.settings,
        session.log,
        scores_base_first=True,
    )
    with pytest.raises(BaseModelError, match="the suite is empty; pass items with --phi3-suite"):
        comparison.compare_items()
