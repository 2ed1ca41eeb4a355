"""A limit is called undecidable only if the gate's own intervals cannot pass it."""

import pytest

from phi3_lora_qa.data.thresholds import Limit, default_limits, expand
from phi3_lora_qa.gate.comparison import select_metrics
from phi3_lora_qa.gate.limit_feasibility import MOST_ITEMS, LimitFeasibility, check_limits
from phi3_lora_qa.record import Outcome, Rule
from phi3_lora_qa.stats.paired import compare, decide
from tests.gate.rows import suite_items
from tests.report.builders import limit as limit_entry


def check(n: int, metric: str, rule: Rule, value: float, per_cluster: int = 0) -> LimitFeasibility:
    limit = Limit(group="target", metric=metric, rule=rule, value=value)
    (found,) = check_limits(suite_items(n, per_cluster), [limit], select_metrics((), [limit]))
    assert found.limit == limit_entry(metric=metric, rule=rule, value=value)
    return found


@pytest.mark.parametrize(
    ("metric", "rule", "value", "needed"),
    [
        ("loss", "no_worse_than", 0.1, 10),
        ("loss", "improve_by", 0.05, 10),
        ("loss", "at_most", 2.0, 10),
        ("exact_match", "no_worse_than", 0.05, 59),
        ("exact_match", "no_worse_than", 0.1, 29),
        ("exact_match", "no_worse_than", 0.25, 11),
        ("exact_match", "at_least", 0.9, 29),
        ("repetition", "at_most", 0.1, 29),
        ("divergence", "at_most", 0.5, 10),
    ],
)
def test_the_number_of_items_that_a_limit_needs(
    metric: str, rule: Rule, value: float, needed: int
) -> None:
    too_few = check(needed - 1, metric, rule, value)
    assert (too_few.decidable, too_few.items, too_few.items_needed) == (False, needed - 1, needed)
    enough = check(needed, metric, rule, value)
    assert (enough.decidable, enough.items, enough.items_needed) == (True, needed, 0)


def test_the_gate_agrees_on_an_adapter_that_changes_nothing() -> None:
    for n, outcome in ((28, Outcome.INCONCLUSIVE), (29, Outcome.PASSED)):
        interval = compare([1.0] * n, [1.0] * n, seed=0, binary=True)
        assert decide(interval, "no_worse_than", 0.1, True) is outcome
        assert check(n, "exact_match", "no_worse_than", 0.1).decidable == (n == 29)


def test_items_of_one_cluster_do_not_count_as_several() -> None:
    assert check(40, "exact_match", "no_worse_than", 0.1).decidable
    found = check(40, "exact_match", "no_worse_than", 0.1, per_cluster=2)
    assert (found.decidable, found.items, found.items_needed) == (False, 40, 29)
    assert check(60, "loss", "no_worse_than", 0.1, per_cluster=4).decidable
    assert not check(36, "loss", "no_worse_than", 0.1, per_cluster=4).decidable


def test_a_limit_that_no_number_of_items_decides_has_a_better_one() -> None:
    found = check(1_000, "exact_match", "at_least", 1.0)
    assert (found.decidable, found.items_needed) == (False, 0)
    assert found.attainable == limit_entry(metric="exact_match", rule="at_least", value=0.99)


def test_a_margin_that_needs_too_many_items_has_no_number() -> None:
    found = check(50, "exact_match", "no_worse_than", 1 / (4 * MOST_ITEMS))
    assert (found.decidable, found.items_needed, found.attainable) == (False, 0, None)


def test_only_items_that_the_metric_applies_to_are_counted() -> None:
    found = check(100, "json_valid", "at_least", 0.5)
    assert (found.decidable, found.items) == (False, 0)


def test_the_built_in_limits_of_a_small_suite_are_undecidable() -> None:
    limits = expand(default_limits(("target",)), ("target",))
    found = check_limits(suite_items(5), limits, select_metrics((), limits))
    assert [limit.decidable for limit in found] == [False, False, False]
