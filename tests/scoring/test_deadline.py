"""Whatever part of a reply a server draws out, and however: the request ends with its time."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.scoring.http_client import HttpClient, RequestLimits, ServerError
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.dripping import PHASES, WAYS, drip

SECONDS = 0.2
QUICK = RequestLimits(timeout=SECONDS, connect=SECONDS, attempts=1, most_bytes=1 << 20)
SLACK = 1.5
"""Of a busy machine."""


@contextmanager
def in_time(tries: int = 1) -> Iterator[None]:
    started = time.monotonic()
    with pytest.raises(BaseModelError) as caught:
        yield
    assert time.monotonic() - started < tries * SECONDS + SLACK
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", PHASES)
def test_no_part_of_a_reply_can_be_drawn_out(phase: str, way: str) -> None:
    scheme = "https" if phase.startswith("TLS") else "http"
    with drip(phase, way) as port, in_time():
        Server(url=f"{scheme}://127.0.0.1:{port}/v1", bounds=QUICK).models()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("way", ["byte by byte", "not at all"])
@pytest.mark.parametrize("phase", ["status line", "headers without end"])
def test_nor_can_the_reply_of_a_proxy(
    phase: str, way: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with drip(phase, way) as port, in_time():
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        Server(url=f"{scheme}://models.invalid/v1", bounds=QUICK).models()


def test_a_server_that_reads_no_request_is_not_waited_for() -> None:
    with (
        drip("status line", "not at all", reads=False) as port,
        HttpClient(f"http://127.0.0.1:{port}/v1", "", QUICK) as wire,
    ):
        started = time.monotonic()
        with pytest.raises(ServerError, match=r"no answer within 0\.2 s"):
            wire.ask("POST", "/completions", {"prompt": "a" * (32 << 20)})
        assert time.monotonic() - started < SECONDS + SLACK


def test_a_name_that_takes_long_to_find_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*_: object, **__: object) -> list[object]:
        time.sleep(5)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with in_time():
        Server(url="http://models.invalid/v1", bounds=QUICK).models()


def test_many_addresses_of_one_name_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # until no more fit: the next connection is never taken
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        many = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        many += [(*many[0][:4], (f"127.0.0.{n}", port)) for n in range(2, 40)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: many)
        with in_time():
            Server(url=f"http://models.invalid:{port}/v1", bounds=QUICK).models()
        for each in waiting:
            each.close()


def test_a_second_request_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with drip("status line", "not at all") as port:
        server = Server(url=f"http://127.0.0.1:{port}/v1", bounds=QUICK)
        for _ in range(2):
            with in_time():
                server.models()
