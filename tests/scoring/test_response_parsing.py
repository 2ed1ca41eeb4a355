"""A response without a valid answer or loss is an error of its item only."""

import json
import math
from collections.abc import Callable

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.faulty_responses import (
    assert_error,
    inject_fault,
    logprobs_of,
    with_choice,
    with_last,
    with_values,
)
from tests.scoring.serving import OPTIONS, ModelServer, Raw, Response

ECHO_FAULTS: dict[str, tuple[Callable[[Response], Response | Raw], str]] = {
    "half a JSON": (lambda correct: json.dumps(correct).encode()[:-9], "not JSON"),
    "not UTF-8": (lambda correct: b"\xff\xfe", "not JSON"),
    "a web page": (lambda correct: b"<html>hello</html>", "not JSON"),
    "a list": (lambda correct: b"[]", "not a JSON object"),
    "endless brackets": (lambda correct: b"[" * 200_000, "not JSON"),
    "NaN": (
        lambda correct: json.dumps(with_values(correct, [math.nan] * 9)).encode(),
        "NaN is not a JSON number",
    ),
    "infinite": (
        lambda correct: (
            json.dumps(with_values(correct, logprobs_of(correct)))
            .replace("-", "-1e999", 1)
            .encode()
        ),
        "not JSON|infinite|above 0",
    ),
    "no choice": (lambda correct: {"choices": []}, "not return exactly one completion"),
    "two choices": (
        lambda correct: {"choices": correct["choices"] * 2},
        "not return exactly one completion",
    ),
    "a number as choice": (lambda correct: {"choices": [3]}, "not return exactly one completion"),
    "one short": (
        lambda correct: with_values(correct, logprobs_of(correct)[:-1]),
        "wrong number of log-probabilities: ",
    ),
    "two long": (
        lambda correct: with_values(correct, [*logprobs_of(correct), -1, -1]),
        "wrong number of log-probabilities: ",
    ),
    "null inside": (lambda correct: with_last(correct, None), "is not a number"),
    "text inside": (lambda correct: with_last(correct, "-1"), "is not a number"),
    "true inside": (lambda correct: with_last(correct, True), "is not a number"),
    "above zero": (lambda correct: with_last(correct, 0.5), "above 0"),
    "huge": (lambda correct: with_last(correct, 10**400), "above 0"),
    "impossible": (lambda correct: with_last(correct, -9999.0), "the loss is inf"),
    "other tokens": (
        lambda correct: with_choice(correct, prompt_token_ids=[1, 2]),
        "different tokens than",
    ),
    "refused": (
        lambda correct: (400, b'{"error": {"message": "too\\nlong"}}'),
        r"status 400: too\\nlong;",
    ),
    "moved": (lambda correct: (302, b""), "status 302.*the address to which it redirects"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "pattern"), ECHO_FAULTS.values(), ids=ECHO_FAULTS.keys())
def test_an_invalid_response_for_the_loss_is_an_error_of_its_item(
    fault: Callable[[Response], Response | Raw],
    pattern: str,
    served: ModelServer,
    server: Server,
    tiny: LoadedBase,
    few: tuple[Item, ...],
) -> None:
    right = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    broken = inject_fault(served, few[-1], fault, echo=True)
    scores = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert_error(scores, broken, pattern)
    assert [s for s in scores if not s.error] == [s for s in right if s.item_id != broken]


ANSWER_FAULTS: dict[str, tuple[Callable[[Response], Response | Raw], str]] = {
    "missing text": (lambda correct: {"choices": [{}]}, "not a text of at most"),
    "a number as text": (lambda correct: with_choice(correct, text=3), "not a text of at most"),
    "endless text": (
        lambda correct: with_choice(correct, text="a" * 100_000),
        "not a text of at most",
    ),
    "text as ids": (lambda correct: with_choice(correct, token_ids="ab"), "token ids are invalid"),
    "negative ids": (lambda correct: with_choice(correct, token_ids=[-1]), "token ids are invalid"),
    "true as id": (lambda correct: with_choice(correct, token_ids=[True]), "token ids are invalid"),
    "huge ids": (lambda correct: with_choice(correct, token_ids=[2**40]), "token ids are invalid"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "pattern"), ANSWER_FAULTS.values(), ids=ANSWER_FAULTS.keys())
def test_an_invalid_answer_is_an_error_of_its_item(
    fault: Callable[[Response], Response | Raw],
    pattern: str,
    served: ModelServer,
    server: Server,
    tiny: LoadedBase,
    few: tuple[Item, ...],
) -> None:
    broken = inject_fault(served, few[-1], fault, echo=False)
    assert_error(server.score("tiny", tiny.tokenizer, few, OPTIONS), broken, pattern)


def test_an_answer_beyond_its_limit_is_cut(
    served: ModelServer, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    inject_fault(
        served, few[-1], lambda correct: with_choice(correct, token_ids=[300] * 5000), echo=False
    )
    score = server.score("tiny", tiny.tokenizer, few, OPTIONS)[-1]
    assert (score.error, score.stopped) == ("", True)
    assert 0 < len(tiny.tokenizer(score.answer)["input_ids"]) <= 41


def test_an_answer_without_its_log_probabilities_is_an_error_of_its_item(
    served: ModelServer, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    broken = inject_fault(
        served, few[1], lambda correct: with_choice(correct, logprobs=None), echo=False
    )
    scores = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert_error(scores, broken, "not have one log-probability per token")
