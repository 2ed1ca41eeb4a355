"""Scores from a server against scores from here; a server that does as it likes harms nobody.

The server is a real one, with OpenAI's completions API before the bundled base and adapter: it
computes with transformers and peft alone, in the plainest way.
"""

import json
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.data.chat import Item
from phi3_lora_qa.errors import BaseModelError, InputError
from phi3_lora_qa.models.loading import LoadedBase, load_base, load_tokenizer
from phi3_lora_qa.models.registry import BaseRef, bundled, resolve_base
from phi3_lora_qa.scoring import ItemScore, ScoringOptions, score_items
from phi3_lora_qa.scoring.answers import stop_tokens, stop_tokens_of
from phi3_lora_qa.scoring.asking import LARGEST_GAP, READ_BACK
from phi3_lora_qa.scoring.remote import Server
from phi3_lora_qa.scoring.wire import API_KEY_VARIABLE, Bounds

OPTIONS = ScoringOptions(max_new_tokens=40)
QUICK = Bounds(timeout=20.0, connect=2.0, attempts=3, pause=0.01)
STANDARD = {"model", "prompt", "max_tokens", "temperature", "top_p", "stop", "echo", "logprobs"}
ROUNDING = 1e-4

Reply = Mapping[str, Any]
Raw = bytes | tuple[int, bytes] | None
"""What a fault sends instead: a body, a status with a body, or nothing until the caller is gone."""


class Served:
    """The models behind a server, and what is wrong with it.

    ``strict`` refuses fields that OpenAI does not know and to generate nothing, and keeps token ids
    to itself. ``fault`` sees each request (its path, its body, its number) and the true reply.
    """

    def __init__(self, tokenizer: Any, models: Mapping[str, Any]) -> None:
        self.tokenizer, self.models = tokenizer, models
        self.strict = False
        self.fault: Callable[[str, Reply, int, Reply], Reply | Raw] | None = None
        self.asked: list[tuple[str, Reply]] = []
        self.headers: list[Mapping[str, str]] = []
        self.gone = threading.Event()
        self._lock = threading.Lock()

    def reply(self, path: str, body: Reply, headers: Mapping[str, str]) -> tuple[int, Reply] | Raw:
        with self._lock:
            self.asked.append((path, body))
            self.headers.append(headers)
            number = len(self.asked)
            status, true = self._truly(path, body)
        if self.fault is None:
            return status, true
        said = self.fault(path, body, number, true)
        return (status, said) if isinstance(said, Mapping) else said

    def _truly(self, path: str, body: Reply) -> tuple[int, Reply]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name} for name in self.models]}
        if path != "/v1/completions" or body["model"] not in self.models:
            return 404, {"error": {"message": "no such model or path"}}
        if self.strict and (extra := sorted(set(body) - STANDARD)):
            return 422, {"detail": f"Unexpected fields in the request: {extra}"}
        if self.strict and body["max_tokens"] == 0:
            return 400, {"error": {"message": "max_tokens must be at least 1"}}
        return 200, {"choices": [self._choice(self.models[body["model"]], body)]}

    def _choice(self, model: Any, body: Reply) -> Reply:
        import torch

        prompt = torch.tensor([body["prompt"]])
        named = self.tokenizer.convert_tokens_to_ids(body.get("stop", []))
        ends = body.get("stop_token_ids") or named or [self.tokenizer.eos_token_id]
        with torch.inference_mode():
            made = (
                model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    do_sample=False,
                    max_new_tokens=body["max_tokens"],
                    eos_token_id=ends,
                    pad_token_id=0,
                )[0].tolist()
                if body["max_tokens"]
                else list(body["prompt"])
            )
            logits = model(input_ids=torch.tensor([made])).logits[0, :-1].double()
        said = made[prompt.shape[1] :]
        shown = made if body.get("echo") else said
        choice: dict[str, Any] = {
            "text": self.tokenizer.decode(shown, skip_special_tokens=not self.strict),
            "finish_reason": "stop" if said and said[-1] in ends else "length",
        }
        if body.get("logprobs") is not None:
            table = torch.log_softmax(logits, dim=-1)
            told = [None, *(float(row[token]) for row, token in zip(table, made[1:], strict=True))]
            choice["logprobs"] = {"token_logprobs": told[len(made) - len(shown) :]}
        if body.get("return_token_ids"):
            choice |= {"token_ids": said, "prompt_token_ids": body["prompt"]}
        return choice


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: apart, each would wait for an acknowledgement
    served: Served

    def do_GET(self) -> None:
        self._send(self.served.reply(self.path, {}, dict(self.headers)))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(self.served.reply(self.path, body, dict(self.headers)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: tests read what is said."""

    def _send(self, said: tuple[int, Reply] | Raw) -> None:
        if said is None:
            self.served.gone.wait(30)
            self.close_connection = True
            return
        status, body = said if isinstance(said, tuple) else (200, said)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve(served: Served) -> Iterator[str]:
    """Run a server; its URL is what the caller gets."""
    handler = type("ServedHandler", (Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
        finally:
            served.gone.set()
            httpd.shutdown()
            thread.join()


def tuned_model(adapter: Path) -> Any:
    """The bundled base with an adapter on it, by peft alone."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(resolve_base("tiny")).model, str(adapter)).eval()


@pytest.fixture(scope="module")
def tuned(good_adapter: Path) -> Any:
    return tuned_model(good_adapter)


@pytest.fixture
def served(tiny: LoadedBase, tuned: Any) -> Served:
    return Served(tiny.tokenizer, {"tiny": tiny.model, "adapter": tuned})


@pytest.fixture
def server(served: Served) -> Iterator[Server]:
    stops = frozenset(served.models["tiny"].generation_config.eos_token_id)
    with serve(served) as url:
        yield Server(url=url, stops=stops, bounds=QUICK)


@pytest.fixture(scope="module")
def few(ragged: tuple[Item, ...]) -> tuple[Item, ...]:
    """Some items; what the last one says is not read back."""
    assert len(ragged[::4]) > READ_BACK
    return ragged[::4]


def assert_alike(one: tuple[ItemScore, ...], other: tuple[ItemScore, ...]) -> None:
    assert [replace(score, loss=0.0) for score in one] == [
        replace(score, loss=0.0) for score in other
    ]
    largest = max(abs(a.loss - b.loss) for a, b in zip(one, other, strict=True))
    assert largest < ROUNDING, largest


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


def test_a_strict_server_is_asked_in_its_own_words(
    served: Served, server: Server, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    """It refuses vLLM's fields and max_tokens 0, tells no token ids and writes stop tokens out."""
    served.strict = True
    remote = server.score("adapter", tiny.tokenizer, ragged, OPTIONS)
    assert_alike(remote, score_items(served.models["adapter"], tiny.tokenizer, ragged, OPTIONS))
    # Two requests an item, and what the first one took to find the form.
    assert len(served.asked) == 2 * len(ragged) + 4


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


def test_the_prompt_goes_over_as_the_tokens_of_the_bases_template(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    server.score("tiny", tiny.tokenizer, few[:1], OPTIONS)
    turns = [{"role": turn.role, "content": turn.content} for turn in few[0].prompt]
    ids = tiny.tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    echo, answer, read_back = (body for _, body in served.asked)
    assert answer["prompt"] == ids
    assert echo["prompt"][: len(ids)] == ids
    assert read_back["prompt"][: len(ids)] == ids
    assert (echo["echo"], echo["max_tokens"], answer["temperature"]) == (True, 0, 0)


def test_tokenizer_and_stops_of_an_unloaded_base_are_those_of_the_loaded_one(
    tiny: LoadedBase, tmp_path: Path
) -> None:
    ref = resolve_base("tiny")
    assert load_tokenizer(ref).get_vocab() == tiny.tokenizer.get_vocab()
    assert load_tokenizer(ref).chat_template == tiny.tokenizer.chat_template
    assert stop_tokens_of(ref, 0) == stop_tokens(tiny.model, 0)
    bare = tmp_path / "bare"  # no weights, and the stops in config.json only
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (bare / name).write_bytes((bundled("tiny/base") / name).read_bytes())
    ref = resolve_base(str(bare))
    assert load_tokenizer(ref).chat_template == tiny.tokenizer.chat_template
    assert stop_tokens_of(ref, 0) == {tiny.model.config.eos_token_id}
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


def test_no_server_is_one_line_that_says_so() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        away = Server(url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1", bounds=QUICK)
        with pytest.raises(BaseModelError, match=r"cannot be reached .*start it, or") as caught:
            away.models()
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(
    status: int, served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    times: Counter[str] = Counter()

    def busy(_path: str, body: Reply, _number: int, true: Reply) -> Reply | Raw:
        times[json.dumps(body)] += 1
        return true if times[json.dumps(body)] % 3 == 0 else (status, b"busy")

    served.fault = busy
    remote = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    served.fault = None
    assert not [score.error for score in remote if score.error]
    assert remote == server.score("tiny", tiny.tokenizer, few, OPTIONS)


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


ECHO_FAULTS: dict[str, tuple[Callable[[Reply], Reply | Raw], str]] = {
    "half a JSON": (lambda true: json.dumps(true).encode()[:-9], "no JSON"),
    "not UTF-8": (lambda true: b"\xff\xfe", "no JSON"),
    "a web page": (lambda true: b"<html>hello</html>", "no JSON"),
    "a list": (lambda true: b"[]", "no JSON object"),
    "endless brackets": (lambda true: b"[" * 200_000, "no JSON"),
    "NaN": (lambda true: json.dumps(with_values(true, [math.nan] * 9)).encode(), "NaN is no JSON"),
    "infinite": (
        lambda true: json.dumps(with_values(true, told(true))).replace("-", "-1e999", 1).encode(),
        "no JSON|infinite|above 0",
    ),
    "no choice": (lambda true: {"choices": []}, "not one completion"),
    "two choices": (lambda true: {"choices": true["choices"] * 2}, "not one completion"),
    "a number as choice": (lambda true: {"choices": [3]}, "not one completion"),
    "one short": (lambda true: with_values(true, told(true)[:-1]), "log-probabilities came back"),
    "two long": (lambda true: with_values(true, [*told(true), -1, -1]), "log-probabilities came"),
    "null inside": (lambda true: with_last(true, None), "is no number"),
    "text inside": (lambda true: with_last(true, "-1"), "is no number"),
    "true inside": (lambda true: with_last(true, True), "is no number"),
    "above zero": (lambda true: with_last(true, 0.5), "above 0"),
    "huge": (lambda true: with_last(true, 10**400), "above 0"),
    "impossible": (lambda true: with_last(true, -9999.0), "the loss is inf"),
    "other tokens": (lambda true: with_choice(true, prompt_token_ids=[1, 2]), "other tokens"),
    "refused": (lambda true: (400, b'{"error": {"message": "too\\nlong"}}'), r"400 \(too\\nlong\)"),
    "moved": (lambda true: (302, b""), "answered 302.*the address that it sends one to"),
}


@pytest.mark.parametrize(("fault", "words"), ECHO_FAULTS.values(), ids=ECHO_FAULTS.keys())
def test_a_loss_that_cannot_be_had_is_an_error_of_its_item(
    fault: Callable[[Reply], Reply | Raw],
    words: str,
    served: Served,
    server: Server,
    tiny: LoadedBase,
    few: tuple[Item, ...],
) -> None:
    right = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    broken = spoil(served, few[-1], fault, echo=True)
    scores = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert_error(scores, broken, words)
    assert [s for s in scores if not s.error] == [s for s in right if s.item_id != broken]


ANSWER_FAULTS: dict[str, tuple[Callable[[Reply], Reply | Raw], str]] = {
    "no text": (lambda true: {"choices": [{}]}, "no text"),
    "a number as text": (lambda true: with_choice(true, text=3), "no text"),
    "endless text": (lambda true: with_choice(true, text="a" * 100_000), "no text of at most"),
    "text as ids": (lambda true: with_choice(true, token_ids="ab"), "token ids are none"),
    "negative ids": (lambda true: with_choice(true, token_ids=[-1]), "token ids are none"),
    "true as id": (lambda true: with_choice(true, token_ids=[True]), "token ids are none"),
    "huge ids": (lambda true: with_choice(true, token_ids=[2**40]), "token ids are none"),
}


@pytest.mark.parametrize(("fault", "words"), ANSWER_FAULTS.values(), ids=ANSWER_FAULTS.keys())
def test_an_answer_that_is_none_is_an_error_of_its_item(
    fault: Callable[[Reply], Reply | Raw],
    words: str,
    served: Served,
    server: Server,
    tiny: LoadedBase,
    few: tuple[Item, ...],
) -> None:
    broken = spoil(served, few[-1], fault, echo=False)
    assert_error(server.score("tiny", tiny.tokenizer, few, OPTIONS), broken, words)


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


def test_an_answer_beyond_its_limit_is_cut(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    spoil(served, few[-1], lambda true: with_choice(true, token_ids=[300] * 5000), echo=False)
    score = server.score("tiny", tiny.tokenizer, few, OPTIONS)[-1]
    assert (score.error, score.stopped) == ("", True)
    assert 0 < len(tiny.tokenizer(score.answer)["input_ids"]) <= 41


def test_a_server_that_ignores_echo_ends_the_scoring_with_the_reason(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    for ignoring in (
        lambda true: with_choice(true, logprobs=None),
        lambda true: with_values(true, [-0.5]),
        lambda true: with_choice(true, logprobs={"content": [{"logprob": -1}]}),
    ):
        served.fault = lambda _path, _body, _number, true, fault=ignoring: fault(true)
        with pytest.raises(BaseModelError, match=r"no log-probabilities of a prompt.*vLLM"):
            server.score("tiny", tiny.tokenizer, few, OPTIONS)


@pytest.mark.parametrize("gap", [0.2, 0.05])
def test_a_server_that_reads_its_answers_otherwise_than_it_wrote_them_is_not_relied_on(
    gap: float, served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    """As vLLM does it, without a word, with an adapter on lm_head; rounding is let pass."""

    def otherwise(_path: str, body: Reply, _number: int, true: Reply) -> Reply | Raw:
        if not body.get("echo"):
            return true
        return with_values(true, [None, *(value - gap for value in told(true)[1:])])

    served.fault = otherwise
    if gap < LARGEST_GAP:
        scores = server.score("tiny", tiny.tokenizer, few, OPTIONS)
        assert not any(score.error for score in scores)
        return
    with pytest.raises(BaseModelError, match=r"0\.2 nats apart.*no loss from it can be relied on"):
        server.score("tiny", tiny.tokenizer, few, OPTIONS)


def test_an_answer_without_its_log_probabilities_is_an_error_of_its_item(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    broken = spoil(served, few[1], lambda true: with_choice(true, logprobs=None), echo=False)
    scores = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert_error(scores, broken, "not one a token")


def test_a_reply_that_does_not_come_is_not_waited_for(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    broken = spoil(served, few[1], lambda true: None, echo=True)
    hasty = replace(server, bounds=replace(QUICK, timeout=1.0))
    scores = hasty.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert_error(scores, broken, "no answer within 1 s")


def test_a_reply_that_drips_is_not_waited_for() -> None:
    def drip(taken: socket.socket) -> None:
        connection, _ = taken.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
            try:
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as taken:
        threading.Thread(target=drip, args=(taken,), daemon=True).start()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        slow = Server(url=url, bounds=Bounds(timeout=0.5, attempts=1))
        with pytest.raises(BaseModelError, match="not complete within"):
            slow.models()


def test_a_reply_without_end_is_not_read_to_the_end(served: Served, server: Server) -> None:
    served.fault = lambda *_: b" " * 3_000_000
    small = replace(server, bounds=replace(QUICK, most_bytes=1 << 20))
    with pytest.raises(BaseModelError, match="larger than 1048576 bytes"):
        small.models()


def test_a_server_that_fails_on_every_item_is_given_up(
    served: Served, server: Server, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    served.fault = lambda *_: (500, b'{"error": {"message": "Out of range float values"}}')
    brief = replace(server, bounds=replace(QUICK, attempts=1), at_once=1)
    with pytest.raises(BaseModelError, match=r"answered 500 \(Out of range float values\)"):
        brief.score("tiny", tiny.tokenizer, ragged, OPTIONS)
    assert 8 * 4 <= len(served.asked) <= 9 * 4  # each item in the four forms of asking


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


def test_an_address_without_the_api_says_where_that_is_most_often(server: Server) -> None:
    with pytest.raises(BaseModelError, match=r"answered 404.*ends in /v1"):
        replace(server, url=server.url.removesuffix("/v1")).models()


def test_the_key_goes_to_the_server_and_nowhere_else(
    served: Served, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "a-key-of-the-server"
    monkeypatch.setenv(API_KEY_VARIABLE, f"{key}\n")
    keyed = replace(Server.at(server.url + "/"), bounds=QUICK)
    assert keyed.models() == ("tiny", "adapter")
    assert served.headers[-1]["Authorization"] == f"Bearer {key}"
    assert key not in repr(keyed)
    served.fault = lambda *_: (401, json.dumps({"error": {"message": f"bad key {key}"}}).encode())
    with pytest.raises(BaseModelError, match=rf"bad key ….*set {API_KEY_VARIABLE}") as caught:
        keyed.models()
    assert key not in str(caught.value)


def test_without_a_key_none_is_sent(
    served: Served, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    Server.at(server.url).models()
    assert "Authorization" not in served.headers[-1]


def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "ab\ncd")
    with pytest.raises(InputError, match="cannot be sent") as caught:
        Server.at("http://127.0.0.1:9/v1").models()
    assert "cd" not in str(caught.value).replace("cannot be", "").replace(API_KEY_VARIABLE, "")


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert server.models() == ("tiny", "adapter")


def test_what_no_item_could_survive_is_an_error_at_once(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    with pytest.raises(InputError, match="share an id"):
        server.score("tiny", tiny.tokenizer, [few[0], few[0]], OPTIONS)
    with pytest.raises(InputError, match="positive"):
        server.score("tiny", tiny.tokenizer, few, ScoringOptions(max_new_tokens=0))
    assert server.score("tiny", tiny.tokenizer, [], OPTIONS) == ()
    assert served.asked == []


def test_an_item_without_a_reference_is_not_asked_for(
    server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    empty = replace(few[0], id="empty", reference="")
    scores = server.score("tiny", tiny.tokenizer, [empty, few[1]], OPTIONS)
    assert "no tokens" in scores[0].error
    assert scores[1].error == ""
