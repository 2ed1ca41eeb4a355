"""Scores from a server against scores from here; a server that does as it likes harms nobody."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import BaseModelError, InputError
from phi3_lora_qa.models.loading import LoadedBase, load_tokenizer
from phi3_lora_qa.models.registry import BaseRef, bundled, resolve_base
from phi3_lora_qa.scoring import ItemScore, ScoringOptions, score_items
from phi3_lora_qa.scoring.decoding import stop_tokens, stop_tokens_from_files
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.faulty_replies import spoil, with_choice
from tests.scoring.serving import OPTIONS, QUICK, Served, serve

ROUNDING = 1e-4


def assert_alike(one: tuple[ItemScore, ...], other: tuple[ItemScore, ...]) -> None:
    assert [replace(score, loss=0.0) for score in one] == [
        replace(score, loss=0.0) for score in other
    ]
    largest = max(abs(a.loss - b.loss) for a, b in zip(one, other, strict=True))
    assert largest < ROUNDING, largest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "adapter"])
def test_a_served_model_has_the_scores_that_it_has_here(
    name: str, served: Served, server: Server, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    remote = server.score(name, tiny.tokenizer, ragged, OPTIONS)
    assert_alike(remote, score_items(served.models[name], tiny.tokenizer, ragged, OPTIONS))
    assert {score.stopped for score in remote} >= {True}


def test_an_answer_that_never_stops_is_cut_where_it_is_cut_here(
    random_phi3: Any, server: Server, served: Served, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    served.models = {"rambling": random_phi3}
    remote = server.score("rambling", tiny.tokenizer, few, OPTIONS)
    assert_alike(remote, score_items(random_phi3, tiny.tokenizer, few, OPTIONS))
    assert not all(score.stopped for score in remote)


def test_a_stop_token_without_words_cuts_no_answer(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    """Phi-3's table has rows that the tokenizer has no token for."""
    served.strict = True
    spare = replace(server, stops=server.stops | {len(tiny.tokenizer) + 7})
    spoil(served, few[-1], lambda true: with_choice(true, text="None of them"), echo=False)
    scores = spare.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert scores[-1].answer == "None of them"
    assert scores[:-1] == server.score("tiny", tiny.tokenizer, few, OPTIONS)[:-1]


@pytest.mark.slow
def test_a_strict_server_is_asked_in_its_own_words(
    served: Served, server: Server, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    """It refuses vLLM's fields and max_tokens 0, tells no token ids and writes stop tokens out."""
    served.strict = True
    remote = server.score("adapter", tiny.tokenizer, ragged, OPTIONS)
    assert_alike(remote, score_items(served.models["adapter"], tiny.tokenizer, ragged, OPTIONS))
    # Two requests an item, and what the first one took to find the form.
    assert len(served.asked) == 2 * len(ragged) + 4


def test_tokenizer_and_stops_of_an_unloaded_base_are_those_of_the_loaded_one(
    tiny: LoadedBase, tmp_path: Path
) -> None:
    ref = resolve_base("tiny")
    assert load_tokenizer(ref).get_vocab() == tiny.tokenizer.get_vocab()
    assert load_tokenizer(ref).chat_template == tiny.tokenizer.chat_template
    assert stop_tokens_from_files(ref, 0) == stop_tokens(tiny.model, 0)
    bare = tmp_path / "bare"  # no weights, and the stops in config.json only
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (bare / name).write_bytes((bundled("tiny/base") / name).read_bytes())
    ref = resolve_base(str(bare))
    assert load_tokenizer(ref).chat_template == tiny.tokenizer.chat_template
    assert stop_tokens_from_files(ref, 0) == {tiny.model.config.eos_token_id}
    (bare / "tokenizer.json").unlink()
    with pytest.raises(BaseModelError, match="no tokenizer"):
        load_tokenizer(ref)


def test_progress_counts_every_item_once(
    server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    seen: list[tuple[int, int]] = []
    server.score("tiny", tiny.tokenizer, few, OPTIONS, lambda *step: seen.append(step))
    assert seen == [(done, len(few)) for done in range(len(few) + 1)]


def test_base_and_adapter_are_found_by_name(server: Server, served: Served) -> None:
    ref = BaseRef(id="microsoft/Phi-3-mini-4k-instruct", folder=None, name="phi3-mini-4k")
    for name in (ref.id, ref.name, "Phi-3-mini-4k-instruct"):
        served.models = {name: None, "support": None}
        assert server.names(ref, "support") == (name, "support")


@pytest.mark.parametrize(
    ("served_names", "adapter", "words"),
    [
        (["gpt"], "support", r"serves gpt, and not the base as tiny.*--served-model-name tiny"),
        (["tiny"], "support", r"serves tiny, and not the adapter as support.*support=PATH"),
        (["tiny"], "tiny", "not the base as tiny"),
        ([], "support", "serves nothing"),
        ([f"m{n}" for n in range(30)], "support", r"m7, …, and not the base"),
    ],
)
def test_a_model_that_is_not_served_is_named_with_what_is(
    served_names: list[str], adapter: str, words: str, server: Server, served: Served
) -> None:
    served.models = dict.fromkeys(served_names)
    with pytest.raises(BaseModelError, match=words) as caught:
        server.names(resolve_base("tiny"), adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"{}", b'{"data": 3}', b'{"data": [{"id": ""}]}', b'{"data": ["tiny"]}', b'{"data": [{}]}'],
)
def test_a_list_of_models_that_is_none_is_refused(
    data: bytes, served: Served, server: Server
) -> None:
    served.fault = lambda *_: data
    with pytest.raises(BaseModelError, match="lists no models by id"):
        server.models()


def test_a_server_that_goes_away_in_the_middle_ends_the_scoring(
    tiny: LoadedBase, tuned: Any, ragged: tuple[Item, ...]
) -> None:
    served = Served(tiny.tokenizer, {"adapter": tuned})
    with serve(served) as url:
        server = Server(url=url, bounds=QUICK)
        server.score("adapter", tiny.tokenizer, ragged[:2], OPTIONS)
    started = time.monotonic()
    with pytest.raises(BaseModelError, match="cannot be reached"):
        server.score("adapter", tiny.tokenizer, ragged, OPTIONS)
    assert time.monotonic() - started < 10


def test_a_server_that_fails_on_every_item_is_given_up(
    served: Served, server: Server, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    served.fault = lambda *_: (500, b'{"error": {"message": "Out of range float values"}}')
    brief = replace(server, bounds=replace(QUICK, attempts=1), at_once=1)
    with pytest.raises(BaseModelError, match=r"answered 500 \(Out of range float values\)"):
        brief.score("tiny", tiny.tokenizer, ragged, OPTIONS)
    assert 8 * 4 <= len(served.asked) <= 9 * 4  # each item in the four forms of asking


def test_what_no_item_could_survive_is_an_error_at_once(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    with pytest.raises(InputError, match="share an id"):
        server.score("tiny", tiny.tokenizer, [few[0], few[0]], OPTIONS)
    with pytest.raises(InputError, match="positive"):
        server.score("tiny", tiny.tokenizer, few, ScoringOptions(max_new_tokens=0))
    assert server.score("tiny", tiny.tokenizer, [], OPTIONS) == ()
    assert served.asked == []


def test_an_item_without_a_possible_reference_is_not_asked_for(
    server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    empty = replace(few[0], id="empty", reference="")
    ended = replace(few[0], id="ended", reference="a <|endoftext|> b", where="suite.jsonl:3")
    scores = server.score("tiny", tiny.tokenizer, [empty, few[1], ended], OPTIONS)
    assert "no tokens" in scores[0].error
    assert scores[1].error == ""
    assert "suite.jsonl:3: the reference holds '<|endoftext|>'" in scores[2].error
