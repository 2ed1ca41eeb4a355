"""Score items through a server with OpenAI's completions API, as ``score_items`` does locally.

Prompts are sent as token ids, rendered by the base's own chat template, so the server's template
and tokenizer have no influence.
"""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import BaseModelError, escape
from phi3_lora_qa.models.registry import BaseRef
from phi3_lora_qa.progress import Progress, silent
from phi3_lora_qa.scoring.completions_client import CompletionsClient
from phi3_lora_qa.scoring.decoding import decode_answer, truncate_at_stop
from phi3_lora_qa.scoring.http_client import (
    API_KEY_VARIABLE,
    HttpClient,
    RequestLimits,
    ServerError,
)
from phi3_lora_qa.scoring.item_score import (
    ItemScore,
    ScoringOptions,
    failed_score,
    make_score,
    validate_request,
)
from phi3_lora_qa.scoring.prompts import TokenizedItem, template_stop_token, tokenize_item
from phi3_lora_qa.scoring.response_parsing import (
    Completion,
    UnsupportedServerError,
    parse_model_names,
)
from phi3_lora_qa.scoring.secret_redaction import redact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONCURRENT_ITEMS = 8
_MAX_FAILURES_IN_A_ROW = 8
"""After this many consecutive failures of the server itself, the next item would fail too."""
_MAX_SHOWN = 8
_MAX_NAME = 2000

_Response = tuple[float, Completion] | Exception
"""An item's loss and answer, or the error that it failed with."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that serves the base and the adapter under separate names, as vLLM does.

    ``url`` is the address of its API (``http://localhost:8000/v1``), and ``api_key`` its bearer
    token, empty if it needs none. ``concurrency`` is how many items are requested at a time.
    ``stops`` are the tokens that end an answer; if empty, the template's own stop token (see
    ``models.stop_tokens``).
    """

    url: str
    api_key: str = field(default="", repr=False)
    stops: frozenset[int] = frozenset()
    limits: RequestLimits = field(default_factory=RequestLimits)
    concurrency: int = CONCURRENT_ITEMS

    @classmethod
    def from_url(cls, url: str) -> "Server":
        """Return the server at a URL, with the API key of the environment."""
        return cls(url=url.rstrip("/"), api_key=os.environ.get(API_KEY_VARIABLE, "").strip())

    def models(self) -> tuple[str, ...]:
        """Return the names of the served models.

        Raises:
            BaseModelError: The server cannot be reached, or its response cannot be used.
        """
        with _naming_server(self), HttpClient(self.url, self.api_key, self.limits) as http:
            return parse_model_names(http.request("GET", "/models"))

    def served_names(self, base: BaseRef, adapter: str) -> tuple[str, str]:
        """Return the names under which base and adapter are served.

        The base may be served under its id, its name, or the last part of its id.

        Raises:
            BaseModelError: As `models`, or one of the two has no name on the server.
        """
        served = self.models()
        shown = (
            ", ".join(
                escape(redact(name[:_MAX_NAME], self.api_key), 80) for name in served[:_MAX_SHOWN]
            )
            or "nothing"
        )
        shown += ", …" if len(served) > _MAX_SHOWN else ""
        tried = tuple(dict.fromkeys((base.id, base.name, PurePath(base.id).name)))
        found = next((name for name in tried if name in served and name != adapter), None)
        if found is None:
            raise BaseModelError(
                f"the server {self.url} does not serve the base as {' or '.join(tried)}: it serves "
                f"{shown}; serve it under that name (vLLM: --served-model-name {tried[-1]})"
            )
        if adapter not in served:
            raise BaseModelError(
                f"the server {self.url} does not serve the adapter as {adapter}: it serves "
                f"{shown}; serve it under that name (vLLM: --enable-lora --lora-modules "
                f"{adapter}=PATH)"
            )
        return found, adapter

    def score(
        self,
        model: str,
        tokenizer: "PreTrainedTokenizerBase",
        items: Sequence[Item],
        options: ScoringOptions,
        progress: Progress = silent,
    ) -> tuple[ItemScore, ...]:
        """Score every item under a served model: the loss of its reference, and its answer.

        Args:
            model: The model's name on the server.
            tokenizer: The base's tokenizer, with its chat template.
            items: Items with unique ids.
            options: ``max_new_tokens`` limits the answers.
            progress: Called with the number of items done, first with the failed ones.

        Returns:
            One score per item, in the order of the items. An item that could not be scored has an
            ``error``; none is left out.

        Raises:
            InputError: Two items have the same id, or an option is not a positive number.
            BaseModelError: The tokenizer's chat template cannot be used, or the server cannot be
                reached, fails on item after item, or returns no reliable log-probabilities.
        """
        validate_request(items, options)
        template_stop = template_stop_token(tokenizer)
        stops = self.stops or frozenset({template_stop})
        scores: dict[str, ItemScore] = {}
        tokenized = []
        for item in items:
            try:
                own = tokenize_item(tokenizer, template_stop, item, options.max_new_tokens, stops)
                tokenized.append(own)
            except Exception as error:  # a template may raise anything for one item
                scores[item.id] = failed_score(item.id, 0, error)
        progress("scoring", len(scores), len(items))
        texts = {token: tokenizer.convert_ids_to_tokens(token) for token in sorted(stops)}
        stop_texts = {token: text if isinstance(text, str) else "" for token, text in texts.items()}
        with _naming_server(self), HttpClient(self.url, self.api_key, self.limits) as http:
            client = CompletionsClient(http, model, stop_texts, tokenized)
            with closing(_responses(client, tokenized, self.concurrency)) as responses:
                for tokens, response in _until_server_fails(responses):
                    scores[tokens.id] = _score(tokenizer, tokens, response, stop_texts)
                    progress("scoring", len(scores), len(items))
        return tuple(scores[item.id] for item in items)


def _until_server_fails(
    responses: Iterator[tuple[TokenizedItem, _Response]],
) -> Iterator[tuple[TokenizedItem, _Response]]:
    """Yield the responses; raise once the server itself fails on item after item."""
    failures = 0
    for item, response in responses:
        persistent = isinstance(response, ServerError) and response.persistent
        failures = failures + 1 if persistent else 0
        if isinstance(response, ServerError) and failures >= _MAX_FAILURES_IN_A_ROW:
            raise response
        yield item, response


def _responses(
    client: CompletionsClient, items: Sequence[TokenizedItem], concurrency: int
) -> Generator[tuple[TokenizedItem, _Response]]:
    """Yield each item with its response or error: the first one alone, the rest as they finish."""

    def score(item: TokenizedItem) -> tuple[TokenizedItem, _Response]:
        try:
            return item, client.score(item)
        except BaseModelError:
            raise
        except Exception as error:  # an error of this item only
            return item, error

    if not items:
        return
    yield score(items[0])
    pool = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="phi3-server")
    try:
        for future in as_completed([pool.submit(score, item) for item in items[1:]]):
            yield future.result()
    finally:
        client.http.stop()
        pool.shutdown(cancel_futures=True)


def _score(
    tokenizer: "PreTrainedTokenizerBase",
    item: TokenizedItem,
    response: _Response,
    stop_texts: Mapping[int, str],
) -> ItemScore:
    if isinstance(response, Exception):
        return failed_score(item.id, len(item.reference), response)
    loss, completion = response
    if completion.token_ids is None:  # the text may contain the stop token
        parts = (completion.text.partition(text)[0] for text in stop_texts.values() if text)
        text = min(parts, key=len, default=completion.text)
        stopped = completion.stopped or text != completion.text
        return make_score(item, loss, text, stopped=stopped)
    ids = truncate_at_stop(completion.token_ids[: item.answer_limit], frozenset(stop_texts))
    stopped = completion.stopped or bool(ids and ids[-1] in stop_texts)
    try:
        return make_score(item, loss, decode_answer(tokenizer, ids), stopped=stopped)
    except Exception as error:  # token ids that the tokenizer does not know
        return failed_score(item.id, len(item.reference), error)


@contextmanager
def _naming_server(server: Server) -> Iterator[None]:
    """Raise the server's errors as one line that names the server."""
    try:
        yield
    except (ServerError, UnsupportedServerError) as error:
        raise BaseModelError(f"{server.url}: {error}") from error
