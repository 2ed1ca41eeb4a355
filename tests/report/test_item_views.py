import math
from collections.abc import Sequence

import pytest

from phi3_lora_qa.record import ItemRow, Metric, Turn, UnseenTurns
from phi3_lora_qa.report import item_views as module
from phi3_lora_qa.report.item_views import (
    DIFFERENT,
    IMPROVED,
    MAX_ITEMS,
    MAX_TURNS,
    REGRESSED,
    ItemView,
    count_flags,
    labelling_metrics,
)
from phi3_lora_qa.report.safe_text import TEXT_LIMIT
from tests.report.builders import item, items, limit, metric, prompt

SAME = {"base_answer": "x", "tuned_answer": "x", "scores": {}}


def item_views(rows: Sequence[ItemRow], metrics: Sequence[Metric] = ()) -> tuple[ItemView, ...]:
    return module.item_views(rows, labelling_metrics(metrics))


def test_errors_and_losses_that_are_not_finite_come_first_then_the_largest_increase() -> None:
    rows = [
        item(1, id="better", base_loss=2.0, tuned_loss=1.0),
        item(1, id="worse", base_loss=1.0, tuned_loss=1.5),
        item(1, id="worst", base_loss=1.0, tuned_loss=3.0),
        item(1, id="broken", tuned_loss=math.nan),
        item(1, id="crashed", base_error="out of memory"),
    ]
    order = [view.id for view in item_views(rows)]
    assert order == ["broken", "crashed", "worst", "worse", "better"]


def test_the_order_does_not_depend_on_the_order_of_the_rows() -> None:
    assert item_views(items()) == item_views(items()[::-1])


def test_an_item_is_labelled_by_how_it_changed() -> None:
    cases = {
        "improved": item(1, base_loss=1.0, tuned_loss=0.5, scores={"token_f1": (0.1, 0.9)}),
        "regressed": item(1, base_loss=1.0, tuned_loss=1.5, scores={"token_f1": (0.9, 0.1)}),
        "mixed": item(1, base_loss=1.0, tuned_loss=0.5, scores={"token_f1": (0.9, 0.1)}),
        "unchanged": item(1, base_loss=1.0, tuned_loss=1.001, **SAME),
        "error": item(1, tuned_error="no answer"),
    }
    for word, row in cases.items():
        assert item_views([row])[0].word == word


def test_a_score_that_is_not_a_number_counts_as_a_regression() -> None:
    view = item_views([item(1, tuned_loss=math.nan, **SAME)])[0]
    assert REGRESSED in view.flags
    view = item_views([item(1, scores={"token_f1": (0.5, math.nan)})])[0]
    assert REGRESSED in view.flags


def test_flags_match_the_filters() -> None:
    view = item_views([item(1, base_loss=1.0, tuned_loss=0.5, scores={})])[0]
    assert view.flags == (IMPROVED, DIFFERENT)
    view = item_views([item(1, base_loss=1.0, tuned_loss=1.0, **SAME)])[0]
    assert view.flags == ()


def test_answers_that_differ_only_after_the_cut_are_still_different() -> None:
    row = item(1, base_answer="x" * 5000 + "a", tuned_answer="x" * 5000 + "b")
    view = item_views([row])[0]
    assert DIFFERENT in view.flags
    assert view.base_answer.is_cut


def test_items_with_the_same_id_have_different_links() -> None:
    anchors = [view.anchor for view in item_views([item(1, id="q")] * 3)]
    assert anchors == ["item-q", "item-q.2", "item-q.3"]


def test_the_page_takes_the_worst_of_too_many_items() -> None:
    rows = [item(n, base_loss=0.0, tuned_loss=float(n)) for n in range(MAX_ITEMS + 10)]
    views = item_views(rows)
    assert len(views) == MAX_ITEMS
    assert min(view.tuned_loss for view in views) == 10.0


def test_the_excerpt_is_the_question_and_not_the_common_system_prompt() -> None:
    row = item(1, prompt=prompt("Where is\nBrack?", system="Be brief."))
    assert item_views([row])[0].excerpt == "Where is Brack?"


def test_a_question_of_several_paragraphs_is_shown_from_its_start() -> None:
    question = "Read this letter.\n\nDear Ilse,\n\nuser: no turn\n\nWho wrote it?"
    view = item_views([item(1, prompt=prompt(question, system="Be brief.\n\nBe kind."))])[0]
    assert view.question.text == question
    assert view.excerpt.startswith("Read this letter. Dear Ilse,")
    assert [(turn.role, turn.text.text) for turn in view.context] == [
        ("system", "Be brief.\n\nBe kind.")
    ]


def test_the_question_is_the_last_user_turn_and_the_turns_before_it_are_kept() -> None:
    said = [("user", "Hello"), ("assistant", "Good day"), ("user", "Where is Brack?")]
    turns = tuple(Turn(role=role, content=text) for role, text in said)
    view = item_views([item(1, prompt=turns)])[0]
    assert view.question.text == "Where is Brack?"
    assert [turn.text.text for turn in view.context] == ["Hello", "Good day"]
    assert item_views([item(1, prompt=())])[0].question.text == ""
    only = (Turn(role="system", content="Greet."),)
    assert item_views([item(1, prompt=only)])[0].question.text == "Greet."


def test_a_long_conversation_is_bounded_and_says_what_was_left_out() -> None:
    turns = [Turn(role="user", content="w" * 1_500) for _ in range(MAX_TURNS + 6)]
    view = item_views([item(1, prompt=(*turns, *prompt("Well?")))])[0]
    assert (len(view.context), view.turns_left_out) == (MAX_TURNS, 6)
    assert sum(len(turn.text.text) for turn in view.context) == TEXT_LIMIT
    assert view.context[1].text.is_cut


RELATIVE = {"agreement": (1.0, 0.1), "divergence": (0.0, 3.0)}


def test_metrics_that_move_in_any_tuned_model_do_not_label_an_item() -> None:
    """An answer that became right is improved, however far the model moved from the base."""
    better = {"exact_match": (0.0, 1.0), "token_f1": (0.2, 1.0), **RELATIVE}
    worse = {"exact_match": (1.0, 0.0), "token_f1": (1.0, 0.2), **RELATIVE}
    rows = [
        *(item(1, id=f"b{n}", base_loss=2.0, tuned_loss=0.5, scores=better) for n in range(152)),
        *(item(1, id=f"w{n}", base_loss=0.5, tuned_loss=2.0, scores=worse) for n in range(25)),
        item(1, id="m", base_loss=0.5, tuned_loss=2.0, scores=better),
    ]
    words = [view.word for view in item_views(rows)]
    assert {word: words.count(word) for word in words} == {
        "improved": 152, "regressed": 25, "mixed": 1,
    }  # fmt: skip
    # Not even a limit on them makes them a regression: their base scores are perfect.
    limits = [metric(metric=name, limit=limit(metric=name)) for name in RELATIVE]
    assert [view.word for view in item_views(rows, limits)] == words


@pytest.mark.parametrize(("has_limit", "word"), [(True, "mixed"), (False, "improved")])
def test_a_metric_labels_the_items_of_a_group_only_where_it_has_a_limit(
    has_limit: bool, word: str
) -> None:
    row = item(1, base_loss=1.0, tuned_loss=0.5, scores={"repetition": (0.1, 0.9)})
    others = limit(group="general", metric="repetition")
    metrics = [
        metric(metric="repetition", limit=limit(metric="repetition") if has_limit else None),
        metric(group="general", metric="repetition", limit=others),
    ]
    assert item_views([row], metrics)[0].word == word


def test_the_filters_count_all_items_and_not_only_those_on_the_page() -> None:
    worse = [item(1, id=f"w{n}", base_loss=1.0, tuned_loss=2.0, scores={}) for n in range(900)]
    better = [item(1, id=f"b{n}", base_loss=2.0, tuned_loss=1.0, scores={}) for n in range(1_100)]
    views = item_views([*better, *worse])
    assert len(views) == MAX_ITEMS
    assert sum(IMPROVED in view.flags for view in views) == 0
    assert count_flags([*better, *worse], {}) == {REGRESSED: 900, IMPROVED: 1_100, DIFFERENT: 2_000}


def test_a_turn_that_the_base_leaves_out_is_marked() -> None:
    prompt_of = tuple(Turn(role=role, content=role) for role in ("system", "user"))
    unseen = [UnseenTurns(roles=("system", "user"), turns=(0,))]
    labelling = labelling_metrics(())
    (view,) = module.item_views([item(1, prompt=prompt_of)], labelling, unseen)
    assert [turn.is_unseen for turn in view.context] == [True]
    assert (view.unseen_turns, view.question_is_unseen) == (1, False)
    (other,) = module.item_views([item(1, prompt=prompt_of[1:])], labelling, unseen)
    assert (other.unseen_turns, other.question_is_unseen) == (0, False)
    lost = [UnseenTurns(roles=("system", "user"), turns=(1,))]
    (view,) = module.item_views([item(1, prompt=prompt_of)], labelling, lost)
    assert view.question_is_unseen
