"""A server that is away, busy, slow or endless; and the key, which nobody else sees."""

import json
import socket
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import BaseModelError, InputError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring.http_client import API_KEY_VARIABLE, RequestLimits
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.faulty_replies import assert_error, spoil
from tests.scoring.serving import OPTIONS, QUICK, Raw, Reply, Served


def test_no_server_is_one_line_that_says_so() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        away = Server(url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1", bounds=QUICK)
        with pytest.raises(BaseModelError, match=r"cannot be reached .*start it, or") as caught:
            away.models()
    assert "\n" not in str(caught.value)


def test_an_address_without_the_api_says_where_that_is_most_often(server: Server) -> None:
    with pytest.raises(BaseModelError, match=r"answered 404.*ends in /v1"):
        replace(server, url=server.url.removesuffix("/v1")).models()


@pytest.mark.slow
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
        slow = Server(url=url, bounds=RequestLimits(timeout=0.5, attempts=1))
        with pytest.raises(BaseModelError, match="not complete within"):
            slow.models()


def test_a_reply_without_end_is_not_read_to_the_end(served: Served, server: Server) -> None:
    served.fault = lambda *_: b" " * 3_000_000
    small = replace(server, bounds=replace(QUICK, most_bytes=1 << 20))
    with pytest.raises(BaseModelError, match="larger than 1048576 bytes"):
        small.models()


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
