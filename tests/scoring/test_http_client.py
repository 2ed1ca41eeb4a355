"""A server that is unreachable, busy, slow or endless; and the key, which stays secret."""

import json
import random
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
from tests.scoring.faulty_responses import assert_error, inject_fault
from tests.scoring.serving import OPTIONS, QUICK, ModelServer, Raw, Response


def test_an_unreachable_server_is_reported_in_one_line() -> None:
    with socket.socket() as unused:  # bound, but not listening
        unused.bind(("127.0.0.1", 0))
        absent = Server(url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1", limits=QUICK)
        with pytest.raises(BaseModelError, match=r"cannot be reached: .*start it, or") as caught:
            absent.models()
    assert "\n" not in str(caught.value)


def test_the_error_for_an_address_without_the_api_suggests_the_usual_one(server: Server) -> None:
    with pytest.raises(BaseModelError, match=r"status 404.*ends in /v1"):
        replace(server, url=server.url.removesuffix("/v1")).models()


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_request_to_a_busy_server_is_sent_again(
    status: int, served: ModelServer, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    times: Counter[str] = Counter()

    def busy(_path: str, body: Response, _number: int, correct: Response) -> Response | Raw:
        times[json.dumps(body)] += 1
        return correct if times[json.dumps(body)] % 3 == 0 else (status, b"busy")

    served.fault = busy
    remote = server.score("tiny", tiny.tokenizer, few, OPTIONS)
    served.fault = None
    assert not [score.error for score in remote if score.error]
    assert remote == server.score("tiny", tiny.tokenizer, few, OPTIONS)


def test_a_missing_response_times_out(
    served: ModelServer, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    broken = inject_fault(served, few[1], lambda correct: None, echo=True)
    impatient = replace(server, limits=replace(QUICK, timeout=1.0))
    scores = impatient.score("tiny", tiny.tokenizer, few, OPTIONS)
    assert_error(scores, broken, "did not respond within 1 s")


def test_a_slow_response_times_out() -> None:
    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
            try:
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        slow = Server(url=url, limits=RequestLimits(timeout=0.5, attempts=1))
        with pytest.raises(BaseModelError, match="not complete within"):
            slow.models()


def test_an_endless_response_is_not_read_to_the_end(served: ModelServer, server: Server) -> None:
    served.fault = lambda *_: b" " * 3_000_000
    small = replace(server, limits=replace(QUICK, max_bytes=1 << 20))
    with pytest.raises(BaseModelError, match="larger than 1048576 bytes"):
        small.models()


def test_the_key_is_sent_to_the_server_and_never_shown(
    served: ModelServer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "the-servers-key"
    monkeypatch.setenv(API_KEY_VARIABLE, f"{key}\n")
    keyed = replace(Server.from_url(server.url + "/"), limits=QUICK)
    assert keyed.models() == ("tiny", "adapter")
    assert served.headers[-1]["Authorization"] == f"Bearer {key}"
    assert key not in repr(keyed)
    served.fault = lambda *_: (401, json.dumps({"error": {"message": f"bad key {key}"}}).encode())
    with pytest.raises(BaseModelError, match=rf"bad key ….*set {API_KEY_VARIABLE}") as caught:
        keyed.models()
    assert key not in str(caught.value)


def test_without_a_key_none_is_sent(
    served: ModelServer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    Server.from_url(server.url).models()
    assert "Authorization" not in served.headers[-1]


def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "ab\ncd")
    with pytest.raises(InputError, match="cannot be sent") as caught:
        Server.from_url("http://127.0.0.1:9/v1").models()
    assert "cd" not in str(caught.value).replace("cannot be", "").replace(API_KEY_VARIABLE, "")


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert server.models() == ("tiny", "adapter")


def test_pauses_double_and_are_prolonged_at_random() -> None:
    limits = RequestLimits(pause=0.5, jitter=0.5)
    for retry, shortest in enumerate((0.5, 1.0, 2.0, 4.0)):
        pauses = [limits.pause_before(retry, 0.0) for _ in range(50)]
        assert all(shortest <= pause <= 1.5 * shortest for pause in pauses)
        assert len(set(pauses)) > 1
    assert replace(limits, jitter=0.0).pause_before(3, 0.0) == 4.0


def test_a_pause_is_never_shorter_than_the_server_asks_for_and_limited() -> None:
    limits = RequestLimits(pause=0.5, jitter=0.5)
    assert all(7.0 <= limits.pause_before(0, 7.0) <= 10.5 for _ in range(50))
    assert all(20.0 <= limits.pause_before(0, 9e4) <= 30.0 for _ in range(50))


def test_pauses_do_not_change_the_users_random_state() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    RequestLimits().pause_before(0, 0.0)
    assert random.random() == expected
