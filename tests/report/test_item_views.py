import math

from phi3_lora_qa.report.item_views import DIFFERENT, IMPROVED, MAX_ITEMS, REGRESSED, item_views
from tests.report.builders import item, items

SAME = {"base_answer": "x", "tuned_answer": "x", "scores": {}}


def test_errors_and_losses_that_are_no_number_come_first_then_the_largest_increase() -> None:
    rows = [
        item(1, id="better", base_loss=2.0, tuned_loss=1.0),
        item(1, id="worse", base_loss=1.0, tuned_loss=1.5),
        item(1, id="worst", base_loss=1.0, tuned_loss=3.0),
        item(1, id="broken", tuned_loss=math.nan),
        item(1, id="crashed", tuned_error="out of memory"),
    ]
    order = [view.id for view in item_views(rows)]
    assert order == ["broken", "crashed", "worst", "worse", "better"]


def test_the_order_does_not_depend_on_the_order_of_the_rows() -> None:
    assert item_views(items()) == item_views(items()[::-1])


def test_an_item_is_named_for_the_way_it_went() -> None:
    cases = {
        "improved": item(1, base_loss=1.0, tuned_loss=0.5, scores={"f1": (0.1, 0.9)}),
        "regressed": item(1, base_loss=1.0, tuned_loss=1.5, scores={"f1": (0.9, 0.1)}),
        "mixed": item(1, base_loss=1.0, tuned_loss=0.5, scores={"f1": (0.9, 0.1)}),
        "unchanged": item(1, base_loss=1.0, tuned_loss=1.001, **SAME),
        "error": item(1, tuned_error="no answer"),
    }
    for word, row in cases.items():
        assert item_views([row])[0].word == word


def test_what_is_no_number_never_counts_as_held() -> None:
    view = item_views([item(1, tuned_loss=math.nan, **SAME)])[0]
    assert REGRESSED in view.flags
    view = item_views([item(1, scores={"f1": (0.5, math.nan)})])[0]
    assert REGRESSED in view.flags


def test_flags_answer_the_filters() -> None:
    view = item_views([item(1, base_loss=1.0, tuned_loss=0.5, scores={})])[0]
    assert view.flags == (IMPROVED, DIFFERENT)
    view = item_views([item(1, base_loss=1.0, tuned_loss=1.0, **SAME)])[0]
    assert view.flags == ()


def test_answers_that_differ_only_behind_the_cut_are_still_different() -> None:
    row = item(1, base_answer="x" * 5000 + "a", tuned_answer="x" * 5000 + "b")
    view = item_views([row])[0]
    assert DIFFERENT in view.flags
    assert view.base_answer.is_cut


def test_items_of_one_name_have_links_of_their_own() -> None:
    anchors = [view.anchor for view in item_views([item(1, id="q")] * 3)]
    assert anchors == ["item-q", "item-q.2", "item-q.3"]


def test_the_page_takes_the_worst_of_too_many_items() -> None:
    rows = [item(n, base_loss=0.0, tuned_loss=float(n)) for n in range(MAX_ITEMS + 10)]
    views = item_views(rows)
    assert len(views) == MAX_ITEMS
    assert min(view.tuned_loss for view in views) == 10.0


def test_the_excerpt_is_the_question_and_not_the_common_system_prompt() -> None:
    row = item(1, prompt="system: Be brief.\n\nuser: Where is\nBrack?")
    assert item_views([row])[0].excerpt == "Where is Brack?"
