"""Replies of a server made faulty, and the error that an item then has."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.scoring import ItemScore
from tests.scoring.serving import Reply, Served


def told(reply: Reply) -> list[Any]:
    values: list[Any] = json.loads(json.dumps(reply))["choices"][0]["logprobs"]["token_logprobs"]
    return values


def with_values(reply: Reply, values: list[Any]) -> Reply:
    choice = {**reply["choices"][0], "logprobs": {"token_logprobs": values}}
    return {"choices": [choice]}


def with_last(reply: Reply, value: object) -> Reply:
    return with_values(reply, [*told(reply)[:-1], value])


def with_choice(reply: Reply, **fields: Any) -> Reply:
    return {"choices": [{**reply["choices"][0], **fields}]}


def spoil(served: Served, item: Item, fault: Callable[[Reply], Any], *, echo: bool) -> str:
    """Let the replies about one item be faulty; return its id."""
    question = item.prompt[-1].content

    def faulty(_path: str, body: Reply, _number: int, true: Reply) -> Any:
        asked = served.tokenizer.decode(body["prompt"])
        hit = question in asked and bool(body.get("echo")) == echo
        return fault(true) if hit else true

    served.fault = faulty
    return item.id


def assert_error(scores: tuple[ItemScore, ...], broken: str, words: str) -> None:
    (error,) = [score for score in scores if score.error]
    assert error.item_id == broken
    assert not math.isfinite(error.loss)
    assert re.search(words, error.error), error.error
    assert "\n" not in error.error
