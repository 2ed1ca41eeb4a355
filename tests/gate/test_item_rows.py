"""Rows have a metric only where it applies; metrics that were not measured are not judged."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from phi3_lora_qa.data.answer_checks import AnswerCheck, Json, MaxWords
from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.data.item_table import error_text
from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.gate.comparison import items_to_decide, measure, select_metrics
from phi3_lora_qa.gate.item_rows import join_scores
from phi3_lora_qa.gate.paired_scores import ComparisonConfig
from phi3_lora_qa.record import Outcome
from phi3_lora_qa.scoring.score_items import ItemScore


def item(number: int, group: str, *checks: AnswerCheck) -> Item:
    ask = Message(role="user", content=f"{group} {number}?")
    return Item(id=f"{group}-{number}", prompt=(ask,), reference="[1]", group=group, checks=checks)


def scores(items: Sequence[Item], answer: str, *, stopped: bool = True) -> list[ItemScore]:
    return [
        ItemScore(item_id=i.id, loss=1.0, tokens=2, answer=answer, stopped=stopped) for i in items
    ]


ITEMS = [
    *(item(n, "format", Json(), MaxWords(words=1)) for n in range(40)),
    *(item(n, "format", MaxWords(words=1)) for n in range(40, 60)),
    *(item(n, "general") for n in range(40)),
]
LIMITS = [
    Limit(group="format", metric="json_valid", rule="at_least", value=0.9),
    Limit(group="format", metric="stopped", rule="no_worse_than", value=0.1),
    Limit(group="general", metric="json_valid", rule="at_least", value=0.9),
]


@pytest.mark.parametrize(("answer", "outcome"), [("[1]", Outcome.PASSED), ("[1", Outcome.FAILED)])
def test_only_the_items_that_a_metric_applies_to_are_counted(answer: str, outcome: Outcome) -> None:
    metrics = select_metrics((), LIMITS)
    rows = join_scores(ITEMS, scores(ITEMS, "[1]"), scores(ITEMS, answer), metrics)
    found = {
        (m.group, m.metric): m
        for m in measure(rows, ComparisonConfig(limits=LIMITS, metrics=metrics, seed=0))
    }
    assert found["format", "json_valid"].n == 40
    assert found["format", "json_valid"].outcome is outcome
    assert found["format", "checks"].n == 60
    assert found["general", "loss"].n == found["general", "stopped"].n == 40
    never = {("general", "json_valid"), ("general", "checks"), ("format", "refusal")}
    assert not never & set(found)
    assert "checks" not in rows[-1].scores
    assert '"kind": "json"' in rows[0].extras
    assert not rows[-1].extras


def test_an_adapter_that_never_stops_fails_although_its_answers_are_correct() -> None:
    metrics = select_metrics((), LIMITS)
    endless = scores(ITEMS, "[1]", stopped=False)
    rows = join_scores(ITEMS, scores(ITEMS, "[1]"), endless, metrics)
    found = {
        (m.group, m.metric): m
        for m in measure(rows, ComparisonConfig(limits=LIMITS, metrics=metrics, seed=0))
    }
    assert found["format", "stopped"].outcome is Outcome.FAILED
    assert found["format", "stopped"].tuned == 0.0
    assert found["format", "exact_match"].tuned == 1.0
    assert (
        items_to_decide(rows, LIMITS[1], ComparisonConfig(limits=LIMITS, metrics=metrics, seed=0))
        > 0
    )


def test_scores_of_the_engine_are_measured_where_they_exist() -> None:
    options = ("[1]", "[2]")
    items = [replace(i, choices=options if n % 2 else ()) for n, i in enumerate(ITEMS[:40])]
    base = [replace(s, choice=0) for s in scores(items, "[1]")]
    tuned = [replace(s, choice=1, divergence=0.5, agreement=0.25) for s in scores(items, "[1]")]
    metrics = select_metrics((), ())
    rows = join_scores(items, base, tuned, metrics)
    config = ComparisonConfig(limits=(), metrics=metrics, seed=0)
    found = {m.metric: m for m in measure(rows, config)}
    assert (found["choice"].n, found["choice"].base, found["choice"].tuned) == (20, 1.0, 0.0)
    assert (found["divergence"].base, found["divergence"].tuned) == (0.0, 0.5)
    assert (found["agreement"].base, found["agreement"].tuned) == (1.0, 0.25)
    served = scores(
        items, "[1]"
    )  # a server returns neither likelihoods of choices nor distributions
    rows = join_scores(items, served, served, metrics)
    assert not {"choice", "divergence", "agreement"} & {
        m.metric for m in measure(rows, ComparisonConfig(limits=(), metrics=metrics, seed=0))
    }


def test_a_row_has_the_turns_and_the_error_of_each_model() -> None:
    system = Message(role="system", content="Be brief.\n\nBe kind.")
    asked = item(0, "general")
    asked = replace(asked, prompt=(system, *asked.prompt), cluster="page 1")
    base, tuned = scores([asked], "[1]"), [replace(scores([asked], "[1]")[0], error="no loss")]
    (row,) = join_scores([asked], base, tuned, select_metrics((), ()))
    assert [(turn.role, turn.content) for turn in row.prompt] == [
        ("system", "Be brief.\n\nBe kind."), ("user", "general 0?"),
    ]  # fmt: skip
    assert (row.base_error, row.tuned_error, row.failed) == ("", "no loss", True)
    assert (row.cluster, row.extras, error_text(row)) == ("page 1", "", "tuned: no loss")
    both = join_scores([asked], tuned, tuned, ())[0]
    assert error_text(both) == "base: no loss; tuned: no loss"
