"""Parse the responses of a completions server; every type, length and number is checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.scoring.http_client import ServerError
from phi3_lora_qa.scoring.prompts import TokenizedItem

_MAX_LOGPROB = 1e-3
"""How far above 0 rounding may lift a log-probability."""
_MINUS_INFINITY = -9999.0
"""vLLM writes this for a probability of 0, because JSON has no infinity."""
_MAX_TOKEN_LENGTH = 256
"""In characters; a longer text cannot come from so few tokens."""


class UnsupportedServerError(BaseModelError):
    """The server lacks something that every item needs, so that it can score none."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A greedy answer. ``token_ids`` is None if the server returns text only."""

    token_ids: tuple[int, ...] | None
    text: str
    stopped: bool


def parse_model_names(response: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names in a response of ``/models``, each once.

    Raises:
        ServerError: It is not a list of models with ids.
    """
    cards = response.get("data")
    cards = cards if isinstance(cards, list) else [None]
    names = [card.get("id") if isinstance(card, dict) else None for card in cards]
    if not all(isinstance(name, str) and name for name in names):
        raise ServerError("/models lists no models by id; use a server with OpenAI's API")
    return tuple(dict.fromkeys(str(name) for name in names))


def parse_prompt_logprobs(
    response: Mapping[str, Any], sent: Sequence[int], start: int
) -> list[float]:
    """Return the log-probability of each token of a prompt, from ``start`` on, in nats.

    Args:
        response: The response to a request with ``echo`` and ``logprobs``. It may contain at most
            one generated token after the prompt.
        sent: The prompt's tokens.
        start: How many tokens to leave out; at least one, because nothing predicts the first.

    Raises:
        UnsupportedServerError: The response has no log-probabilities of the prompt.
        ServerError: It does not have exactly one log-probability for each token.
    """
    choice = _choice(response)
    values = _token_logprobs(choice)
    if values is None or len(values) <= 1:
        raise UnsupportedServerError(
            "the server returns no log-probabilities of a prompt (echo with logprobs), so there is "
            "no loss; serve with vLLM, or score here with --phi3-backend transformers"
        )
    if len(values) - len(sent) not in (0, 1):
        raise ServerError(
            "the server returned the wrong number of log-probabilities: "
            f"{len(values)} for {len(sent)} tokens; make it take the prompt unchanged"
        )
    if choice.get("prompt_token_ids") not in (None, list(sent)):
        raise ServerError(
            "the server read different tokens than were sent; make it take the prompt unchanged"
        )
    return [_parse_logprob(value) for value in values[start : len(sent)]]


def parse_completion_logprobs(response: Mapping[str, Any], count: int) -> list[float]:
    """Return the log-probabilities of ``count`` generated tokens, in nats.

    Raises:
        ServerError: There is not exactly one for each token.
    """
    values = _token_logprobs(_choice(response))
    if values is None or len(values) != count:
        raise ServerError(
            "the answer does not have one log-probability per token; check what the server sends"
        )
    return [_parse_logprob(value) for value in values]


def parse_completion(response: Mapping[str, Any], item: TokenizedItem) -> Completion:
    """Return the completion in a response.

    Raises:
        ServerError: It has no text, invalid token ids, or more text than was requested.
    """
    choice = _choice(response)
    ids, text = choice.get("token_ids"), choice.get("text")
    if ids is not None and not (
        isinstance(ids, list) and all(type(token) is int and 0 <= token < 2**31 for token in ids)
    ):
        raise ServerError("the answer's token ids are invalid; check what the server sends")
    if not isinstance(text, str) or len(text) > _MAX_TOKEN_LENGTH * (item.answer_limit + 1):
        raise ServerError(
            f"the answer is not a text of at most {item.answer_limit} tokens; "
            "check what the server sends"
        )
    return Completion(
        token_ids=None if ids is None else tuple(ids),
        text=text,
        stopped=choice.get("finish_reason") == "stop",
    )


def _choice(response: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = response.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        return choices[0]
    raise ServerError(
        "the server did not return exactly one completion for one prompt; "
        "check what the server sends"
    )


def _token_logprobs(choice: Mapping[str, Any]) -> list[object] | None:
    logprobs = choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    return values if isinstance(values, list) else None


def _parse_logprob(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ServerError("a log-probability is not a number; check what the server sends")
    if not (abs(value) < math.inf and value <= _MAX_LOGPROB):
        raise ServerError("a log-probability is infinite or above 0; check what the server sends")
    return float(value) if value > _MINUS_INFINITY else -math.inf
