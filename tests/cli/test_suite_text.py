"""The text of ``suite check``: every finding with its fix, and one line that sums it up."""

from dataclasses import replace

import pytest

from phi3_lora_qa.cli.suite_text import report_lines
from phi3_lora_qa.data.power import PowerAssumptions
from phi3_lora_qa.data.suite_check import DuplicateItem, SuiteReport, TrainedItem, check_suite
from phi3_lora_qa.data.turn_tokens import MarkedItem
from phi3_lora_qa.gate.limit_feasibility import LimitFeasibility
from tests.gate.rows import suite_items
from tests.report.builders import limit

GOOD = LimitFeasibility(limit=limit(), items=40, decidable=True)


def lines(report: SuiteReport, *limits: LimitFeasibility) -> list[str]:
    return list(report_lines(report, limits or (GOOD,), PowerAssumptions(), "x.toml"))


def test_a_clean_suite_with_enough_items_is_ok() -> None:
    shown = lines(check_suite(suite_items(40)))
    assert shown[0] == "target: 40 items"
    assert shown[1] == (
        "  smallest detectable change: 15.5 percentage points of a share, "
        "0.118 nats per token of the loss"
    )
    assert shown[-1] == "OK: no faults, and enough items for every limit of x.toml (1)"


@pytest.mark.parametrize(
    ("found", "per_cluster", "words"),
    [
        (
            LimitFeasibility(limit=limit(), items=8, decidable=False, items_needed=10),
            0,
            "needs 10 items (has 8), unless the adapter improves them",
        ),
        (
            LimitFeasibility(
                limit=limit(rule="improve_by"), items=8, decidable=False, items_needed=10
            ),
            2,
            "needs 10 independent items (has 8 in clusters, equivalent to 4)",
        ),
        (
            LimitFeasibility(limit=limit(group="safety"), items=0, decidable=False),
            0,
            "the suite has no items for it; add some, or remove the limit",
        ),
        (
            LimitFeasibility(limit=limit(rule="at_most"), items=8, decidable=False),
            0,
            "needs more than 4,096 items (has 8); use a wider margin",
        ),
        (
            LimitFeasibility(
                limit=limit(metric="exact_match", rule="at_least", value=1.0),
                items=8,
                decidable=False,
                attainable=limit(metric="exact_match", rule="at_least", value=0.99),
            ),
            0,
            "no number of items can show this; use at least 0.99",
        ),
    ],
)
def test_a_limit_that_cannot_be_decided_says_what_it_needs(
    found: LimitFeasibility, per_cluster: int, words: str
) -> None:
    shown = lines(check_suite(suite_items(8, per_cluster)), GOOD, found)
    assert "too few items for 1 of 2 limits of x.toml:" in shown
    assert shown[-2].endswith(f": {words}")
    assert shown[-1].startswith("fix the suite: add items, or use wider margins")


def test_every_fault_is_listed_up_to_ten() -> None:
    report = replace(
        check_suite(suite_items(3)),
        duplicates=tuple(
            DuplicateItem(item=f"d{n}\n", other="a", similarity=1.0) for n in range(12)
        ),
        near_duplicates=(DuplicateItem(item="b", other="a", similarity=0.8),),
        trained_on=(TrainedItem(item="c", training_row=3, similarity=1.0),),
        nearly_trained_on=(TrainedItem(item="d", training_row=9, similarity=0.9),),
    )
    shown = lines(report)
    assert sum("is 100% similar to a" in line for line in shown) == 10
    assert "  and 2 more; --format json lists all" in shown
    assert "  b is 80% similar to a" in shown
    assert "  c is 100% similar to training row 3" in shown
    assert "  d is 90% similar to training row 9" in shown
    assert shown[-1] == "fix the suite: remove duplicates and trained items"
    assert not any("\n" in line for line in shown)


def test_answers_with_special_tokens_are_listed_with_what_the_token_does() -> None:
    ends = MarkedItem(
        item="a", where="s.jsonl:3", part="reference", token="<|end|>", ends_answer=True
    )
    opens = replace(ends, part="turn", token="<|user|>", ends_answer=False, where="")
    shown = lines(replace(check_suite(suite_items(3)), marked=(ends, *[opens] * 11)))
    assert "  s.jsonl:3: the reference contains '<|end|>', which ends an answer" in shown
    assert "  a: an earlier turn contains '<|user|>', which begins a turn" in shown
    assert "  and 2 more; --format json lists all" in shown
    assert shown[-1] == "fix the suite: remove special tokens from answers"


def test_a_suite_that_was_not_compared_is_not_called_ok() -> None:
    shown = lines(
        replace(check_suite(suite_items(3)), not_compared=2, not_compared_with_training=1)
    )
    assert shown[-1] == "no faults found, but not everything was checked"
    assert sum(line.startswith("not checked: ") for line in shown) == 2
