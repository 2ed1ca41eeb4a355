"""A server that never finishes its response: in which part of it, and at which speed."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import repeat

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

PHASES: dict[str, tuple[bytes, bytes]] = {
    "status line": (b"", b"H"),
    "reason phrase": (b"HTTP/1.1 200 ", b"a"),
    "one header": (OK + b"X-A: ", b"a"),
    "header name": (OK, b"a"),
    "endless headers": (OK, b"X-A: b\r\n"),
    "folded header": (OK + b"X-A: b\r\n", b" c\r\n"),
    "interim responses": (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "blank lines before the response": (b"", b"\r\n"),
    "body with a length": (OK + b"Content-Length: 999999999\r\n\r\n", b" "),
    "body without a length": (OK + b"Connection: close\r\n\r\n", b" "),
    "chunk size": (CHUNKED, b"0"),
    "chunk extension": (CHUNKED + b"5;", b"a"),
    "chunks": (CHUNKED, b"1\r\n \r\n"),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-A: b\r\n"),
    "body of a redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: /v1/elsewhere\r\nContent-Length: 99999999\r\n\r\n", b" "
    ),
    "body of a rejection": (b"HTTP/1.1 401 No\r\nContent-Length: 99999999\r\n\r\n", b" "),
    "TLS handshake": (b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03", b"\x00"),
}  # fmt: skip
"""What is sent first, and what is then sent repeatedly."""

SPEEDS: dict[str, Callable[[bytes], Iterator[tuple[bytes, float]]]] = {
    "byte by byte": lambda piece: ((bytes([b]), 0.02) for part in repeat(piece) for b in part),
    "piece by piece": lambda piece: repeat((piece, 0.05)),
    "not at all": lambda _: repeat((b"", 0.05)),
    "all at once": lambda piece: repeat((piece * 4096, 0.0)),
}
"""Pieces, and how many seconds the server waits after each."""


@contextmanager
def drip(phase: str, speed: str, *, reads: bool = True) -> Iterator[int]:
    """Run such a server; yield its port."""
    stopped = threading.Event()

    def respond(connection: socket.socket) -> None:
        head, piece = PHASES[phase]
        with connection, suppress(OSError):
            if reads:
                connection.recv(1 << 16)
            connection.sendall(head)
            for data, pause in SPEEDS[speed](piece):
                if stopped.is_set():
                    return
                if data:
                    connection.sendall(data)
                time.sleep(pause)

    def accept(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.settimeout(5)
                threading.Thread(target=respond, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        try:
            yield listening.getsockname()[1]
        finally:
            stopped.set()
