"""Metrics grouped for the page, each with its limit in words."""

from phi3_lora_qa.record import Outcome
from phi3_lora_qa.report.metric_views import metric_groups, shown_limit
from tests.report.builders import METRICS, limit, metric


def test_metrics_are_grouped_in_the_order_of_the_record() -> None:
    groups = metric_groups(METRICS)
    assert [name for name, _ in groups] == ["target", "general"]
    assert [view.result for _, views in groups for view in views] == list(METRICS)


def test_a_limit_is_shown_in_words_without_its_metric() -> None:
    assert shown_limit(metric()) == "no worse than the base by more than 0.05"
    assert shown_limit(metric(limit=None)) == ""
    baseline = limit(rule="improve_by", value=0.5, against="baseline")
    assert shown_limit(metric(limit=baseline)) == "better than the baseline by more than 0.5"
    assert shown_limit(metric(limit=limit(rule="at_least", value=0.9))) == "at least 0.9"


def test_only_a_metric_with_a_limit_passes() -> None:
    cases = {
        (True, Outcome.PASSED): True,
        (True, Outcome.INCONCLUSIVE): True,
        (True, None): False,
        (False, None): False,
        (False, Outcome.PASSED): False,
        (False, Outcome.FAILED): True,
    }
    for (has_limit, outcome), has_outcome in cases.items():
        one = metric(limit=limit() if has_limit else None, outcome=outcome)
        ((_, (view,)),) = metric_groups([one])
        assert view.has_outcome is has_outcome, (has_limit, outcome)


def test_the_direction_is_the_metrics_own() -> None:
    ((_, views),) = metric_groups([metric(), metric(metric="exact_match"), metric(metric="mine")])
    assert [view.better for view in views] == ["lower", "higher", "higher"]
