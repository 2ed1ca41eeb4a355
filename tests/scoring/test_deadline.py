"""A request ends at its deadline, whichever part of the response a server delays, and how."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.scoring.http_client import HttpClient, RequestLimits, ServerError
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.dripping import PHASES, SPEEDS, drip

SECONDS = 0.2
QUICK = RequestLimits(timeout=SECONDS, connect=SECONDS, attempts=1, max_bytes=1 << 20)
SLACK = 1.5
"""In seconds, for a busy machine."""


@contextmanager
def in_time(tries: int = 1) -> Iterator[None]:
    started = time.monotonic()
    with pytest.raises(BaseModelError) as caught:
        yield
    assert time.monotonic() - started < tries * SECONDS + SLACK
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("phase", PHASES)
def test_no_part_of_a_response_can_be_delayed(phase: str, speed: str) -> None:
    scheme = "https" if phase.startswith("TLS") else "http"
    with drip(phase, speed) as port, in_time():
        Server(url=f"{scheme}://127.0.0.1:{port}/v1", limits=QUICK).models()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("speed", ["byte by byte", "not at all"])
@pytest.mark.parametrize("phase", ["status line", "endless headers"])
def test_a_proxys_response_cannot_be_delayed(
    phase: str, speed: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with drip(phase, speed) as port, in_time():
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        Server(url=f"{scheme}://models.invalid/v1", limits=QUICK).models()


def test_a_server_that_does_not_read_the_request_times_out() -> None:
    with (
        drip("status line", "not at all", reads=False) as port,
        HttpClient(f"http://127.0.0.1:{port}/v1", "", QUICK) as http,
    ):
        started = time.monotonic()
        with pytest.raises(ServerError, match=r"did not respond within 0\.2 s"):
            http.request("POST", "/completions", {"prompt": "a" * (32 << 20)})
        assert time.monotonic() - started < SECONDS + SLACK


def test_a_slow_dns_lookup_times_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*_: object, **__: object) -> list[object]:
        time.sleep(5)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with in_time():
        Server(url="http://models.invalid/v1", limits=QUICK).models()


def test_the_addresses_of_one_name_share_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # until the backlog is full: the next connection is never accepted
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        many = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        many += [(*many[0][:4], (f"127.0.0.{n}", port)) for n in range(2, 40)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: many)
        with in_time():
            Server(url=f"http://models.invalid:{port}/v1", limits=QUICK).models()
        for each in waiting:
            each.close()


def test_a_second_request_has_its_own_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with drip("status line", "not at all") as port:
        server = Server(url=f"http://127.0.0.1:{port}/v1", limits=QUICK)
        for _ in range(2):
            with in_time():
                server.models()
