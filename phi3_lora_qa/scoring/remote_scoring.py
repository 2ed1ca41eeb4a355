"""Scores from a server with OpenAI's completions API, the same figures as ``score`` gives.

Prompts go over as token ids, rendered by the base's own chat template, so that the server's
template and tokenizer have no say.
"""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import BaseModelError, escape
from phi3_lora_qa.models.registry import BaseRef
from phi3_lora_qa.scoring.completions_client import CompletionsClient
from phi3_lora_qa.scoring.decoding import answer_text, cut
from phi3_lora_qa.scoring.http_client import (
    API_KEY_VARIABLE,
    HttpClient,
    RequestLimits,
    ServerError,
)
from phi3_lora_qa.scoring.prompts import PromptedItem, prompt_item, stop_token
from phi3_lora_qa.scoring.response_parsing import Answer, UnsupportedServerError, model_names
from phi3_lora_qa.scoring.score_items import (
    ItemScore,
    ScoringOptions,
    check_request,
    failed,
    finished,
)
from phi3_lora_qa.scoring.secret_redaction import cleaned

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 8
_HOPELESS = 8
"""So many items in a row that the server itself failed on: it will not do the next one either."""
_MOST_SHOWN = 8
_MOST_OF_NAME = 2000


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that has the base and the adapter under names of their own, as vLLM does it.

    ``url`` is where its API begins (``http://localhost:8000/v1``), ``key`` its bearer token, if it
    wants one; ``at_once`` is how many items are asked for together. ``stops`` are the tokens that
    end an answer, the template's own where there are none (see ``decoding.stop_tokens``).
    """

    url: str
    key: str = field(default="", repr=False)
    stops: frozenset[int] = frozenset()
    bounds: RequestLimits = field(default_factory=RequestLimits)
    at_once: int = AT_ONCE

    @classmethod
    def at(cls, url: str) -> "Server":
        """Return the server at a URL, with the key that the environment holds."""
        return cls(url=url.rstrip("/"), key=os.environ.get(API_KEY_VARIABLE, "").strip())

    def models(self) -> tuple[str, ...]:
        """Return the names of the models that are served.

        Raises:
            BaseModelError: The server cannot be reached, or does not answer as it should.
        """
        with _about(self), HttpClient(self.url, self.key, self.bounds) as wire:
            return model_names(wire.ask("GET", "/models"))

    def names(self, base: BaseRef, adapter: str) -> tuple[str, str]:
        """Return the names under which base and adapter are served.

        The base may be served under its id, its name, or the last part of its id.

        Raises:
            BaseModelError: As `models`, or one of the two is not served under a name of its own.
        """
        served = self.models()
        shown = (
            ", ".join(
                escape(cleaned(name[:_MOST_OF_NAME], self.key), 80) for name in served[:_MOST_SHOWN]
            )
            or "nothing"
        )
        shown += ", …" if len(served) > _MOST_SHOWN else ""
        tried = tuple(dict.fromkeys((base.id, base.name, PurePath(base.id).name)))
        found = next((name for name in tried if name in served and name != adapter), None)
        if found is None:
            raise BaseModelError(
                f"the server {self.url} serves {shown}, and not the base as {' or '.join(tried)}; "
                f"serve it under that name (vLLM: --served-model-name {tried[-1]})"
            )
        if adapter not in served:
            raise BaseModelError(
                f"the server {self.url} serves {shown}, and not the adapter as {adapter}; serve "
                f"it under that name (vLLM: --enable-lora --lora-modules {adapter}=PATH)"
            )
        return found, adapter

    def score(
        self,
        model: str,
        tokenizer: "PreTrainedTokenizerBase",
        items: Sequence[Item],
        options: ScoringOptions,
        report: Callable[[int, int], None] | None = None,
    ) -> tuple[ItemScore, ...]:
        """Score every item under a served model: the loss of its reference and the answer given.

        Args:
            model: The name under which the server has it.
            tokenizer: The base's, with its chat template.
            items: With ids that differ.
            options: ``max_new_tokens`` bounds the answers.
            report: Called with (items done, all items), first with 0 done.

        Returns:
            One score for each item, in the items' order. What goes wrong in one item stands in
            its ``error``; nothing is left out.

        Raises:
            InputError: Two items share an id, or an option is no positive number.
            BaseModelError: The tokenizer's chat template cannot be used, or the server is away,
                fails on item after item, or gives no log-probabilities of prompts that can be
                relied on.
        """
        check_request(items, options)
        stop = stop_token(tokenizer)
        stops = self.stops or frozenset({stop})
        tell = report or (lambda done, total: None)
        scores: dict[str, ItemScore] = {}
        prompted = []
        for item in items:
            try:
                own = prompt_item(tokenizer, stop, item, options.max_new_tokens, stops)
                prompted.append(own)
            except Exception as error:  # one item's trouble, whatever a template raises
                scores[item.id] = failed(item.id, 0, error)
        tell(len(scores), len(items))
        texts = {token: tokenizer.convert_ids_to_tokens(token) for token in sorted(stops)}
        words = {token: text if isinstance(text, str) else "" for token, text in texts.items()}
        in_a_row = 0
        with _about(self), HttpClient(self.url, self.key, self.bounds) as wire:
            asker = CompletionsClient(wire, model, words, prompted)
            with closing(_replies(asker, prompted, self.at_once)) as replies:
                for asked, reply in replies:
                    scores[asked.id] = _scored(tokenizer, asked, reply, words)
                    persistent = isinstance(reply, ServerError) and reply.persistent
                    in_a_row = in_a_row + 1 if persistent else 0
                    if isinstance(reply, ServerError) and in_a_row >= _HOPELESS:
                        raise reply
                    tell(len(scores), len(items))
        return tuple(scores[item.id] for item in items)


def _replies(
    asker: CompletionsClient, items: Sequence[PromptedItem], at_once: int
) -> Generator[tuple[PromptedItem, tuple[float, Answer] | Exception]]:
    """Yield each item with its reply or trouble: the first alone, the rest as they come."""

    def ask(item: PromptedItem) -> tuple[PromptedItem, tuple[float, Answer] | Exception]:
        try:
            return item, asker(item)
        except BaseModelError:
            raise
        except Exception as error:  # one item's trouble
            return item, error

    if not items:
        return
    yield ask(items[0])
    pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="phi3-server")
    try:
        for future in as_completed([pool.submit(ask, item) for item in items[1:]]):
            yield future.result()
    finally:
        asker.wire.stop()
        pool.shutdown(cancel_futures=True)


def _scored(
    tokenizer: "PreTrainedTokenizerBase",
    item: PromptedItem,
    reply: tuple[float, Answer] | Exception,
    stops: Mapping[int, str],
) -> ItemScore:
    if isinstance(reply, Exception):
        return failed(item.id, len(item.reference), reply)
    loss, said = reply
    if said.ids is None:  # a server may have written the stop token out
        written_out = (said.text.partition(word)[0] for word in stops.values() if word)
        text = min(written_out, key=len, default=said.text)
        return finished(item, loss, text, stopped=said.stopped or text != said.text)
    ids = cut(said.ids[: item.answer_limit], frozenset(stops))
    stopped = said.stopped or bool(ids and ids[-1] in stops)
    try:
        return finished(item, loss, answer_text(tokenizer, ids), stopped=stopped)
    except Exception as error:  # token ids that the tokenizer does not know
        return failed(item.id, len(item.reference), error)


@contextmanager
def _about(server: Server) -> Iterator[None]:
    """Turn what the server did into one line that names it."""
    try:
        yield
    except (ServerError, UnsupportedServerError) as error:
        raise BaseModelError(f"{server.url}: {error}") from error
