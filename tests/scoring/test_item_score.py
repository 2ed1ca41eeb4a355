"""Scores and options: what is an error, and what no engine accepts."""

import math
from dataclasses import replace

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.scoring.item_score import (
    ScoringOptions,
    failed_score,
    make_score,
    validate_request,
)
from phi3_lora_qa.scoring.prompts import TokenizedItem
from tests.scoring.builders import item

TOKENS = TokenizedItem(id="a", prompt=(1,), reference=(2, 3), answer_limit=4)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error(loss: float) -> None:
    score = make_score(TOKENS, loss, "small", stopped=True)
    assert f"the loss is {loss}" in score.error
    assert make_score(TOKENS, 0.0, "small", stopped=True).error == ""


def test_a_failed_item_has_no_loss_and_a_printable_error() -> None:
    score = failed_score("a", 2, RuntimeError("no\nsuch \x1b[31mtoken"))
    assert math.isnan(score.loss)
    assert (score.item_id, score.tokens, score.answer, score.stopped) == ("a", 2, "", False)
    assert score.error.startswith("RuntimeError: no")
    assert score.error.isprintable()


def test_duplicate_ids_and_limits_below_one_are_refused() -> None:
    own = item(id="a", question="How large?", answer="small")
    validate_request([own, replace(own, id="b")], ScoringOptions(max_new_tokens=1, token_budget=1))
    with pytest.raises(InputError, match="have the same id"):
        validate_request([own, own], ScoringOptions())
    for options in (ScoringOptions(max_new_tokens=0), ScoringOptions(token_budget=-1)):
        with pytest.raises(InputError, match=r"must be positive: got .*; pass positive"):
            validate_request([own], options)
