"""How a completions server is asked about an item, and whether its figures agree with each other.

Two requests make a score: the greedy answer, and the log-probabilities of prompt and reference
(``echo``). For the first items, where it tells token ids, it is also made to read its own answer
back: a token must be as likely when it is read as it was when it was written. Servers with LoRA
have got that wrong: https://github.com/vllm-project/vllm/issues/51594.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from phi3_lora_qa.scoring.http_client import HttpClient, ServerError
from phi3_lora_qa.scoring.prompts import PromptedItem
from phi3_lora_qa.scoring.response_parsing import (
    Answer,
    UnsupportedServerError,
    answer,
    read_log_probabilities,
    written_log_probabilities,
)

READ_BACK = 4
"""So many items are read back."""
LARGEST_GAP = 0.1
"""Nats per token, on average over an answer; the rounding of bfloat16 makes some hundredths."""
_REFUSALS = (400, 422)
_MOST_STOPS = 4


class CompletionsClient:
    """Asks a server about items of one model, in the form that it takes; for any thread.

    vLLM's own fields make answers exact: the answer's token ids, and stops by id. Strict servers
    refuse fields that they do not know, and some to generate no token. So the first item that the
    server takes settles the form of all.

    Args:
        wire: To the server.
        model: The model's name there.
        stops: The tokens that end an answer, each with its text; empty for none.
        items: All that will be asked for.
    """

    def __init__(
        self, wire: HttpClient, model: str, stops: Mapping[int, str], items: Sequence[PromptedItem]
    ) -> None:
        self.wire = wire
        self._read_back = {item.id for item in items[:READ_BACK]}
        known = {"model": model, "temperature": 0, "top_p": 1, "logprobs": 1}
        own = {"return_token_ids": True, "repetition_penalty": 1.0}
        to_answer = {**known, "stop": [text for text in stops.values() if text][:_MOST_STOPS]}
        self._answers = [{**to_answer, **own, "stop_token_ids": list(stops)}, to_answer]
        to_echo = {**known, "echo": True}
        self._echoes = [
            {**to_echo, **extra, "max_tokens": tokens} for extra in (own, {}) for tokens in (0, 1)
        ]

    def __call__(self, item: PromptedItem) -> tuple[float, Answer]:
        """Return an item's loss, which `losses.reference_losses` computes, and its answer.

        Returns:
            The mean over the reference, the stop token included, in nats per token, infinite where
            a token got no probability at all; and the greedy answer.

        Raises:
            UnsupportedServerError: No loss of this server could be relied on.
            ServerError: This item's replies cannot be used.
        """
        likely = self._read(item.prompt, item.reference)
        body = {"prompt": list(item.prompt), "max_tokens": item.answer_limit}
        reply = self._ask(self._answers, body)
        said = answer(reply, item)
        if item.id in self._read_back and said.ids:
            self._require_agreement(item, said.ids, reply)
        return -math.fsum(likely) / len(likely), said

    def _read(self, prompt: Sequence[int], behind: Sequence[int]) -> list[float]:
        """Return the log-probability of each token that stands behind a prompt."""
        sent = [*prompt, *behind]
        return read_log_probabilities(self._ask(self._echoes, {"prompt": sent}), sent, len(prompt))

    def _require_agreement(
        self, item: PromptedItem, ids: Sequence[int], reply: Mapping[str, Any]
    ) -> None:
        written = written_log_probabilities(reply, len(ids))
        read = self._read(item.prompt, ids)
        gap = math.fsum(abs(w - r) for w, r in zip(written, read, strict=True)) / len(ids)
        if not gap <= LARGEST_GAP:
            raise UnsupportedServerError(
                f"the tokens of an answer are {gap:.2g} nats apart when the server writes them and "
                "when it reads them back, so no loss from it can be relied on (vLLM: known of "
                "adapters on lm_head); score here with --phi3-backend transformers"
            )

    def _ask(self, forms: list[dict[str, Any]], body: Mapping[str, Any]) -> dict[str, Any]:
        tried = tuple(forms)  # another thread may settle it meanwhile
        for form in tried:
            try:
                reply = self.wire.ask("POST", "/completions", {**form, **body})
            except ServerError as error:
                # Old servers crash where they were asked to generate nothing.
                refused = error.status in (*_REFUSALS, 500)
                if not refused or form is tried[-1]:
                    raise
            else:
                forms[:] = [form]
                return reply
        raise AssertionError("there is always a form")
