"""What a completions server said, taken apart: every type, length and number is looked at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.scoring.http_client import ServerError
from phi3_lora_qa.scoring.prompts import PromptedItem

_ABOVE_ZERO = 1e-3
"""How far rounding may lift a log-probability above 0."""
_MINUS_INFINITY = -9999.0
"""vLLM writes this for a probability of 0, as JSON has no infinity."""
_LONGEST_TOKEN = 256
"""Characters; what is longer was not written with so few tokens."""


class UnsupportedServerError(BaseModelError):
    """No item can be scored by this server, whatever it says to the next one."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A greedy answer: its token ids where the server tells them, else its text."""

    ids: tuple[int, ...] | None
    text: str
    stopped: bool


def model_names(reply: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that a reply to ``/models`` lists, each once.

    Raises:
        ServerError: It is no such list.
    """
    cards = reply.get("data")
    cards = cards if isinstance(cards, list) else [None]
    names = [card.get("id") if isinstance(card, dict) else None for card in cards]
    if not all(isinstance(name, str) and name for name in names):
        raise ServerError("/models lists no models by id; give a server with OpenAI's API")
    return tuple(dict.fromkeys(str(name) for name in names))


def read_log_probabilities(
    reply: Mapping[str, Any], sent: Sequence[int], start: int
) -> list[float]:
    """Return the log-probability of each token of a prompt, from ``start`` on, in nats.

    Args:
        reply: To a request with ``echo`` and ``logprobs``. At most one token may have been
            generated behind the prompt.
        sent: The prompt's tokens.
        start: How many to leave out, at least one: nothing stands before the first.

    Raises:
        UnsupportedServerError: The reply says nothing of the prompt.
        ServerError: It does not hold one log-probability for each token.
    """
    choice = _choice(reply)
    values = _told(choice)
    if values is None or len(values) <= 1:
        raise UnsupportedServerError(
            "the server gives no log-probabilities of a prompt (echo with logprobs), so no loss "
            "can be had from it; serve with vLLM, or score here with --phi3-backend transformers"
        )
    if len(values) - len(sent) not in (0, 1):
        raise ServerError(
            f"{len(values)} log-probabilities came back for {len(sent)} tokens; "
            "the server must take the prompt as it is"
        )
    if choice.get("prompt_token_ids") not in (None, list(sent)):
        raise ServerError(
            "the server read other tokens than were sent; it must take the prompt as it is"
        )
    return [_log_probability(value) for value in values[start : len(sent)]]


def written_log_probabilities(reply: Mapping[str, Any], count: int) -> list[float]:
    """Return the log-probabilities of ``count`` generated tokens, in nats.

    Raises:
        ServerError: They are not told one for each.
    """
    values = _told(_choice(reply))
    if values is None or len(values) != count:
        raise ServerError(
            "the answer's log-probabilities are not one a token; look at what the server sends"
        )
    return [_log_probability(value) for value in values]


def answer(reply: Mapping[str, Any], item: PromptedItem) -> Answer:
    """Return a reply's answer.

    Raises:
        ServerError: It holds no text or tokens, or more text than was asked for.
    """
    choice = _choice(reply)
    ids, text = choice.get("token_ids"), choice.get("text")
    if ids is not None and not (
        isinstance(ids, list) and all(type(token) is int and 0 <= token < 2**31 for token in ids)
    ):
        raise ServerError("the answer's token ids are none; look at what the server sends")
    if not isinstance(text, str) or len(text) > _LONGEST_TOKEN * (item.answer_limit + 1):
        raise ServerError(
            f"no text of at most {item.answer_limit} tokens came back; "
            "look at what the server sends"
        )
    return Answer(
        ids=None if ids is None else tuple(ids),
        text=text,
        stopped=choice.get("finish_reason") == "stop",
    )


def _choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = reply.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        return choices[0]
    raise ServerError("not one completion came back for one prompt; look at what the server sends")


def _told(choice: Mapping[str, Any]) -> list[object] | None:
    told = choice.get("logprobs")
    values = told.get("token_logprobs") if isinstance(told, dict) else None
    return values if isinstance(values, list) else None


def _log_probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ServerError("a log-probability is no number; look at what the server sends")
    if not (abs(value) < math.inf and value <= _ABOVE_ZERO):
        raise ServerError("a log-probability is infinite or above 0; look at what the server sends")
    return float(value) if value > _MINUS_INFINITY else -math.inf
