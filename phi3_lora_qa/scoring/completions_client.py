"""Score items through a completions server, and check that its log-probabilities are consistent.

Two requests make a score: the greedy answer, and the log-probabilities of prompt and reference
(``echo``). If the server returns token ids, it also reads back its own answers to the first items:
a token must be as likely when it is read as when it was generated. Servers with LoRA have got this
wrong: https://github.com/vllm-project/vllm/issues/51594.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from phi3_lora_qa.scoring.http_client import HttpClient, ServerError
from phi3_lora_qa.scoring.prompts import TokenizedItem
from phi3_lora_qa.scoring.response_parsing import (
    Completion,
    UnsupportedServerError,
    parse_completion,
    parse_completion_logprobs,
    parse_prompt_logprobs,
)

READ_BACK_ITEMS = 4
"""How many answers are read back."""
MAX_GAP = 0.1
"""In nats per token, averaged over an answer; bfloat16 rounding accounts for a few hundredths."""
_REFUSALS = (400, 422)
_MAX_STOPS = 4


class CompletionsClient:
    """Scores items under one model of a server, with the request fields that the server accepts.

    vLLM's own fields make answers exact: they return the answer's token ids and stop by token id.
    Strict servers reject unknown fields, and some cannot generate zero tokens. The first item that
    the server accepts decides which fields are sent for all others. Any thread may use the client.

    Args:
        http: The connection to the server.
        model: The model's name on the server.
        stops: The tokens that end an answer, each with its text; an empty text if it has none.
        items: All items that will be scored.
    """

    def __init__(
        self, http: HttpClient, model: str, stops: Mapping[int, str], items: Sequence[TokenizedItem]
    ) -> None:
        self.http = http
        self._read_back = {item.id for item in items[:READ_BACK_ITEMS]}
        common = {"model": model, "temperature": 0, "top_p": 1, "logprobs": 1}
        vllm = {"return_token_ids": True, "repetition_penalty": 1.0}
        complete = {**common, "stop": [text for text in stops.values() if text][:_MAX_STOPS]}
        self._complete = [{**complete, **vllm, "stop_token_ids": list(stops)}, complete]
        echo = {**common, "echo": True}
        self._echo = [
            {**echo, **extra, "max_tokens": tokens} for extra in (vllm, {}) for tokens in (0, 1)
        ]

    def score(self, item: TokenizedItem) -> tuple[float, Completion]:
        """Return an item's loss, as `losses.token_losses` computes it, and the greedy answer.

        Returns:
            The mean over the reference, the stop token included, in nats per token (infinite if a
            token had no probability), and the completion.

        Raises:
            UnsupportedServerError: No loss from this server would be reliable.
            ServerError: The responses for this item cannot be used.
        """
        logprobs = self._prompt_logprobs(item.prompt, item.reference)
        body = {"prompt": list(item.prompt), "max_tokens": item.answer_limit}
        response = self._post(self._complete, body)
        completion = parse_completion(response, item)
        if item.id in self._read_back and completion.token_ids:
            self._require_consistent(item, completion.token_ids, response)
        return -math.fsum(logprobs) / len(logprobs), completion

    def _prompt_logprobs(self, prompt: Sequence[int], after: Sequence[int]) -> list[float]:
        """Return the log-probability of each token of ``after``, which follows a prompt."""
        sent = [*prompt, *after]
        response = self._post(self._echo, {"prompt": sent})
        return parse_prompt_logprobs(response, sent, len(prompt))

    def _require_consistent(
        self, item: TokenizedItem, token_ids: Sequence[int], response: Mapping[str, Any]
    ) -> None:
        generated = parse_completion_logprobs(response, len(token_ids))
        read = self._prompt_logprobs(item.prompt, token_ids)
        total = math.fsum(abs(g - r) for g, r in zip(generated, read, strict=True))
        gap = total / len(token_ids)
        if not gap <= MAX_GAP:
            raise UnsupportedServerError(
                "the server's log-probabilities are inconsistent: those of an answer differ by "
                f"{gap:.2g} nats per token between generating it and reading it back (vLLM: known "
                "for adapters on lm_head); score here with --phi3-backend transformers"
            )

    def _post(self, variants: list[dict[str, Any]], body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request with the first variant of its fields that the server accepts."""
        tried = tuple(variants)  # another thread may shorten the list meanwhile
        for variant in tried:
            try:
                response = self.http.request("POST", "/completions", {**variant, **body})
            except ServerError as error:
                # Old servers crash when they are asked to generate zero tokens.
                refused = error.status in (*_REFUSALS, 500)
                if not refused or variant is tried[-1]:
                    raise
            else:
                variants[:] = [variant]
                return response
        raise AssertionError("there is always a variant")
