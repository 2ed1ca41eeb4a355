"""A server's scores are the local ones, and a faulty server does no harm."""

import time
from dataclasses import replace
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import BaseModelError, InputError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.registry import BaseRef, resolve_base
from phi3_lora_qa.scoring import ScoringOptions, score_items
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.builders import assert_same_scores
from tests.scoring.faulty_responses import inject_fault, with_choice
from tests.scoring.serving import OPTIONS, QUICK, ModelServer, serve

ROUNDING = 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "adapter"])
def test_a_served_model_has_the_same_scores_as_a_local_one(
    name: str, served: ModelServer, server: Server, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    remote = server.score(name, tiny.tokenizer, ragged, OPTIONS)
    assert_same_scores(
        remote, score_items(served.models[name], tiny.tokenizer, ragged, OPTIONS), ROUNDING
    )
    assert {score.stopped for score in remote} >= {True}


def test_an_answer_that_never_stops_is_cut_at_the_same_token(
    random_phi3: Any, server: Server, served: ModelServer, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    served.models = {"rambling": random_phi3}
    remote = server.score("rambling", tiny.tokenizer, few, OPTIONS)
    assert_same_scores(remote, score_items(random_phi3, tiny.tokenizer, few, OPTIONS), ROUNDING)
    assert not all(score.stopped for score in remote)


def test_a_stop_token_without_a_text_cuts_no_answer(
    served: ModelServer, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    """Phi-3's table has rows that the tokenizer has no token for."""
    served.strict = True
    spare = replace(server, stops=server.stops | {len(tiny.tokenizer) + 7})
    inject_fault(
        served, few[-1], lambda correct: with_choice(correct, text="None of them"), echo=False
    )
    scores = spare.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert scores[-1].answer == "None of them"
    assert scores[:-1] == server.score("tiny", tiny.tokenizer, few, OPTIONS)[:-1]


@pytest.mark.slow
def test_a_strict_server_gets_only_the_fields_that_it_knows(
    served: ModelServer, server: Server, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    """It rejects vLLM's fields and max_tokens 0, and returns stop tokens as text and no ids."""
    served.strict = True
    remote = server.score("adapter", tiny.tokenizer, ragged, OPTIONS)
    assert_same_scores(
        remote, score_items(served.models["adapter"], tiny.tokenizer, ragged, OPTIONS), ROUNDING
    )
    # Two requests per item, and what it took to find the accepted fields.
    assert len(served.requests) == 2 * len(ragged) + 4


def test_progress_counts_every_item_once(
    server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    seen: list[tuple[int, int]] = []

    def progress(_: str, *step: int) -> None:
        seen.append((step[0], step[1]))

    server.score("tiny", tiny.tokenizer, few, OPTIONS, progress)
    assert seen == [(done, len(few)) for done in range(len(few) + 1)]


def test_base_and_adapter_are_found_by_name(server: Server, served: ModelServer) -> None:
    ref = BaseRef(id="microsoft/Phi-3-mini-4k-instruct", folder=None, name="phi3-mini-4k")
    for name in (ref.id, ref.name, "Phi-3-mini-4k-instruct"):
        served.models = {name: None, "support": None}
        assert server.served_names(ref, "support") == (name, "support")


@pytest.mark.parametrize(
    ("names", "adapter", "pattern"),
    [
        (
            ["gpt"],
            "support",
            r"not serve the base as tiny: it serves gpt; .*--served-model-name tiny",
        ),
        (["tiny"], "support", r"not serve the adapter as support: it serves tiny; .*support=PATH"),
        (["tiny"], "tiny", "does not serve the base as tiny"),
        ([], "support", "serves nothing"),
        ([f"m{n}" for n in range(30)], "support", r"not serve the base .*m7, …; serve"),
    ],
)
def test_a_model_that_is_not_served_is_named_with_the_served_ones(
    names: list[str], adapter: str, pattern: str, server: Server, served: ModelServer
) -> None:
    served.models = dict.fromkeys(names)
    with pytest.raises(BaseModelError, match=pattern) as caught:
        server.served_names(resolve_base("tiny"), adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"{}", b'{"data": 3}', b'{"data": [{"id": ""}]}', b'{"data": ["tiny"]}', b'{"data": [{}]}'],
)
def test_an_invalid_list_of_models_is_refused(
    data: bytes, served: ModelServer, server: Server
) -> None:
    served.fault = lambda *_: data
    with pytest.raises(BaseModelError, match="lists no models by id"):
        server.models()


def test_a_server_that_disappears_ends_the_scoring(
    tiny: LoadedBase, tuned: Any, ragged: tuple[Item, ...]
) -> None:
    served = ModelServer(tiny.tokenizer, {"adapter": tuned})
    with serve(served) as url:
        server = Server(url=url, limits=QUICK)
        server.score("adapter", tiny.tokenizer, ragged[:2], OPTIONS)
    started = time.monotonic()
    with pytest.raises(BaseModelError, match="cannot be reached"):
        server.score("adapter", tiny.tokenizer, ragged, OPTIONS)
    assert time.monotonic() - started < 10


def test_a_server_that_fails_on_item_after_item_ends_the_scoring(
    served: ModelServer, server: Server, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    served.fault = lambda *_: (500, b'{"error": {"message": "Out of range float values"}}')
    brief = replace(server, limits=replace(QUICK, attempts=1), concurrency=1)
    with pytest.raises(BaseModelError, match=r"status 500: Out of range float values;"):
        brief.score("tiny", tiny.tokenizer, ragged, OPTIONS)
    assert 8 * 4 <= len(served.requests) <= 9 * 4  # each item with four variants of the fields


def test_an_error_that_concerns_all_items_is_raised_at_once(
    served: ModelServer, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    with pytest.raises(InputError, match="have the same id"):
        server.score("tiny", tiny.tokenizer, [few[0], few[0]], OPTIONS)
    with pytest.raises(InputError, match="positive"):
        server.score("tiny", tiny.tokenizer, few, ScoringOptions(max_new_tokens=0))
    assert server.score("tiny", tiny.tokenizer, [], OPTIONS) == ()
    assert served.requests == []


def test_an_item_with_an_impossible_reference_is_not_sent(
    server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    empty = replace(few[0], id="empty", reference="")
    ended = replace(few[0], id="ended", reference="a <|endoftext|> b", where="suite.jsonl:3")
    scores = server.score("tiny", tiny.tokenizer, [empty, few[1], ended], OPTIONS)
    assert "no tokens" in scores[0].error
    assert scores[1].error == ""
    assert "suite.jsonl:3: the reference contains the stop token '<|endoftext|>'" in scores[2].error
