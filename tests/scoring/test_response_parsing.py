"""A reply that is no answer, or no loss, is an error of its item and of no other."""

import json
import math
from collections.abc import Callable

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.faulty_replies import (
    assert_error,
    spoil,
    told,
    with_choice,
    with_last,
    with_values,
)
from tests.scoring.serving import OPTIONS, Raw, Reply, Served

ECHO_FAULTS: dict[str, tuple[Callable[[Reply], Reply | Raw], str]] = {
    "half a JSON": (lambda true: json.dumps(true).encode()[:-9], "no JSON"),
    "not UTF-8": (lambda true: b"\xff\xfe", "no JSON"),
    "a web page": (lambda true: b"<html>hello</html>", "no JSON"),
    "a list": (lambda true: b"[]", "no JSON object"),
    "endless brackets": (lambda true: b"[" * 200_000, "no JSON"),
    "NaN": (lambda true: json.dumps(with_values(true, [math.nan] * 9)).encode(), "NaN is no JSON"),
    "infinite": (
        lambda true: json.dumps(with_values(true, told(true))).replace("-", "-1e999", 1).encode(),
        "no JSON|infinite|above 0",
    ),
    "no choice": (lambda true: {"choices": []}, "not one completion"),
    "two choices": (lambda true: {"choices": true["choices"] * 2}, "not one completion"),
    "a number as choice": (lambda true: {"choices": [3]}, "not one completion"),
    "one short": (lambda true: with_values(true, told(true)[:-1]), "log-probabilities came back"),
    "two long": (lambda true: with_values(true, [*told(true), -1, -1]), "log-probabilities came"),
    "null inside": (lambda true: with_last(true, None), "is no number"),
    "text inside": (lambda true: with_last(true, "-1"), "is no number"),
    "true inside": (lambda true: with_last(true, True), "is no number"),
    "above zero": (lambda true: with_last(true, 0.5), "above 0"),
    "huge": (lambda true: with_last(true, 10**400), "above 0"),
    "impossible": (lambda true: with_last(true, -9999.0), "the loss is inf"),
    "other tokens": (lambda true: with_choice(true, prompt_token_ids=[1, 2]), "other tokens"),
    "refused": (lambda true: (400, b'{"error": {"message": "too\\nlong"}}'), r"400 \(too\\nlong\)"),
    "moved": (lambda true: (302, b""), "answered 302.*the address that it sends one to"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "words"), ECHO_FAULTS.values(), ids=ECHO_FAULTS.keys())
def test_a_loss_that_cannot_be_had_is_an_error_of_its_item(
    fault: Callable[[Reply], Reply | Raw],
    words: str,
    served: Served,
    server: Server,
    tiny: LoadedBase,
    few: tuple[Item, ...],
) -> None:
    right = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    broken = spoil(served, few[-1], fault, echo=True)
    scores = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert_error(scores, broken, words)
    assert [s for s in scores if not s.error] == [s for s in right if s.item_id != broken]


ANSWER_FAULTS: dict[str, tuple[Callable[[Reply], Reply | Raw], str]] = {
    "no text": (lambda true: {"choices": [{}]}, "no text"),
    "a number as text": (lambda true: with_choice(true, text=3), "no text"),
    "endless text": (lambda true: with_choice(true, text="a" * 100_000), "no text of at most"),
    "text as ids": (lambda true: with_choice(true, token_ids="ab"), "token ids are none"),
    "negative ids": (lambda true: with_choice(true, token_ids=[-1]), "token ids are none"),
    "true as id": (lambda true: with_choice(true, token_ids=[True]), "token ids are none"),
    "huge ids": (lambda true: with_choice(true, token_ids=[2**40]), "token ids are none"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "words"), ANSWER_FAULTS.values(), ids=ANSWER_FAULTS.keys())
def test_an_answer_that_is_none_is_an_error_of_its_item(
    fault: Callable[[Reply], Reply | Raw],
    words: str,
    served: Served,
    server: Server,
    tiny: LoadedBase,
    few: tuple[Item, ...],
) -> None:
    broken = spoil(served, few[-1], fault, echo=False)
    assert_error(server.score("tiny", tiny.tokenizer, few, OPTIONS), broken, words)


def test_an_answer_beyond_its_limit_is_cut(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    spoil(served, few[-1], lambda true: with_choice(true, token_ids=[300] * 5000), echo=False)
    score = server.score("tiny", tiny.tokenizer, few, OPTIONS)[-1]
    assert (score.error, score.stopped) == ("", True)
    assert 0 < len(tiny.tokenizer(score.answer)["input_ids"]) <= 41


def test_an_answer_without_its_log_probabilities_is_an_error_of_its_item(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    broken = spoil(served, few[1], lambda true: with_choice(true, logprobs=None), echo=False)
    scores = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert_error(scores, broken, "not one a token")
