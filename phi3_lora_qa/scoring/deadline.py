"""One deadline for a whole request: looking the name up, connecting, TLS, headers and body.

The HTTP client has a limit for each single read, and a server that sends a byte now and then stays
within it for ever. So what the client reads and writes through is replaced by streams that know
when the request must be over, and how much may come.
"""

import socket
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.libraries import incompatible

if TYPE_CHECKING:
    import httpx2

_MOST_ADDRESSES = 8
"""Of one name are tried."""
_TICK = 1e-3
"""The shortest limit that is handed on: of 0 a socket thinks that it must not wait."""


class OutOfTimeError(Exception):
    """The request's time is over."""


class TooMuchError(Exception):
    """More came than a request may bring."""


class Deadline(threading.local):
    """What is left of the request that this thread is making."""

    def __init__(self) -> None:
        self._ends, self._bytes = 0.0, 0

    @contextmanager
    def request(self, seconds: float, most_bytes: int) -> Generator[None]:
        """Let one request take so long from now on, and bring so many bytes with its headers."""
        self._ends, self._bytes = time.monotonic() + seconds, most_bytes
        yield

    def left(self, most: float | None = None) -> float:
        """Return the seconds that are left, or ``most`` where that is less.

        Raises:
            OutOfTimeError: There are none.
        """
        left = self._ends - time.monotonic()
        if left <= 0:
            raise OutOfTimeError
        return max(left if most is None else min(most, left), _TICK)

    def take(self, count: int) -> None:
        """Note that so many bytes came.

        Raises:
            TooMuchError: They are more than may come.
        """
        self._bytes -= count
        if self._bytes < 0:
            raise TooMuchError


def bind(client: "httpx2.Client", deadline: Deadline) -> None:
    """Let all that a client sends and receives fall under a deadline, through proxies too.

    Raises:
        IncompatibleLibraryError: The installed client has no place for it.
    """
    try:
        transports = [client._transport, *client._mounts.values()]
        for pool in (each._pool for each in transports if each):  # type: ignore[attr-defined]
            pool._network_backend = _Backend(pool._network_backend, deadline)
    except AttributeError as error:
        raise incompatible("httpx2", f"has no place for a deadline ({error})") from error


class _Backend:
    """Makes connections; stands before the library's own network backend."""

    def __init__(self, inner: Any, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> "_Stream":
        """Connect to the first address of a name that answers, all within one limit."""
        import httpcore2

        ends = time.monotonic() + self._deadline.left(timeout)
        found = _addresses(host, port, self._deadline.left(timeout))
        error: Exception = httpcore2.ConnectError(found if isinstance(found, str) else "no address")
        for address in [] if isinstance(found, str) else found:
            left = self._deadline.left(max(ends - time.monotonic(), _TICK))
            try:
                stream = self._inner.connect_tcp(address, port, timeout=left, **options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
            else:
                return _Stream(stream, self._deadline)
            if time.monotonic() >= ends:
                break
        raise error

    def sleep(self, seconds: float) -> None:
        """Wait between tries."""
        self._inner.sleep(self._deadline.left(seconds))


class _Stream:
    """A connection on which every single wait ends with the request that it is made for."""

    def __init__(self, inner: Any, deadline: Deadline, *, nested: bool = False) -> None:
        self._inner, self._deadline, self._nested = inner, deadline, nested

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there."""
        left = self._deadline.left(timeout)
        with self._watched(self._nested):
            data: bytes = self._inner.read(max_bytes, left)
        self._deadline.take(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write in pieces: the library waits anew for each that a slow reader takes."""
        view = memoryview(buffer)
        while view:
            left = self._deadline.left(timeout)
            with self._watched(self._nested):
                self._inner.write(bytes(view[: 1 << 12]), left)
            view = view[1 << 12 :]

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Stream":
        """Make the connection a secure one."""
        nested = self.get_extra_info("ssl_object") is not None
        left = self._deadline.left(timeout)
        with self._watched(True):
            stream = self._inner.start_tls(ssl_context, server_hostname, left)
        return _Stream(stream, self._deadline, nested=nested)

    def get_extra_info(self, info: str) -> Any:
        """Return what the library knows of the connection."""
        return self._inner.get_extra_info(info)

    @contextmanager
    def _watched(self, wanted: bool) -> Generator[None]:
        """End a wait from outside, where the library waits many times in one call."""
        if not wanted:
            yield
            return
        timer = threading.Timer(self._deadline.left(), _shut, [self.get_extra_info("socket")])
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception:
            self._deadline.left()  # what went wrong after the time was over, went wrong by it
            raise
        finally:
            timer.cancel()


def _shut(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):
            # Of the plain socket: a secure one would first exchange words with the other side.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _addresses(host: str, port: int, seconds: float) -> list[str] | str:
    """Return a name's addresses, or why there are none; the system's look-up knows no limit."""
    found: list[Iterable[Any] | Exception] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        return f"its name was not found within {seconds:g} s"
    if isinstance(found[0], Exception):
        return str(found[0])
    return list(dict.fromkeys(str(place[4][0]) for place in found[0]))[:_MOST_ADDRESSES]
