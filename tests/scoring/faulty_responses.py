"""Faulty responses of a server, and the error that an item then has."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.scoring import ItemScore
from tests.scoring.serving import ModelServer, Response


def logprobs_of(response: Response) -> list[Any]:
    values: list[Any] = json.loads(json.dumps(response))["choices"][0]["logprobs"]["token_logprobs"]
    return values


def with_values(response: Response, values: list[Any]) -> Response:
    choice = {**response["choices"][0], "logprobs": {"token_logprobs": values}}
    return {"choices": [choice]}


def with_last(response: Response, value: object) -> Response:
    return with_values(response, [*logprobs_of(response)[:-1], value])


def with_choice(response: Response, **fields: Any) -> Response:
    return {"choices": [{**response["choices"][0], **fields}]}


def inject_fault(
    served: ModelServer, item: Item, fault: Callable[[Response], Any], *, echo: bool
) -> str:
    """Make the responses for one item faulty; return its id."""
    question = item.prompt[-1].content

    def faulty(_path: str, body: Response, _number: int, correct: Response) -> Any:
        prompt = served.tokenizer.decode(body["prompt"])
        hit = question in prompt and bool(body.get("echo")) == echo
        return fault(correct) if hit else correct

    served.fault = faulty
    return item.id


def assert_error(scores: tuple[ItemScore, ...], item_id: str, pattern: str) -> None:
    (error,) = [score for score in scores if score.error]
    assert error.item_id == item_id
    assert not math.isfinite(error.loss)
    assert re.search(pattern, error.error), error.error
    assert "\n" not in error.error
