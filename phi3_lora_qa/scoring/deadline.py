"""One deadline for a whole request: DNS lookup, connection, TLS, headers and body.

The HTTP client limits each read separately, so a server that sends a byte now and then would never
time out. Therefore the client's network streams are replaced with ones that know when the request
must end, and how many bytes it may receive.
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

_MAX_ADDRESSES = 8
"""How many addresses of one name are tried."""
_MIN_TIMEOUT = 1e-3
"""The shortest timeout in seconds that is passed on: with 0, a socket would not wait at all."""


class DeadlineExceededError(Exception):
    """The request ran out of time."""


class ResponseTooLargeError(Exception):
    """The server sent more bytes than a request may receive."""


class Deadline(threading.local):
    """The time and the bytes that remain for the current request of each thread."""

    def __init__(self) -> None:
        self._end, self._bytes = 0.0, 0

    @contextmanager
    def request(self, seconds: float, max_bytes: int) -> Generator[None]:
        """Limit one request to a time from now and to a number of bytes, headers included."""
        self._end, self._bytes = time.monotonic() + seconds, max_bytes
        yield

    def remaining(self, limit: float | None = None) -> float:
        """Return the seconds that remain, or ``limit`` if that is less.

        Raises:
            DeadlineExceededError: No time remains.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise DeadlineExceededError
        return max(seconds if limit is None else min(limit, seconds), _MIN_TIMEOUT)

    def count_bytes(self, count: int) -> None:
        """Subtract received bytes from those that remain.

        Raises:
            ResponseTooLargeError: The request received too many.
        """
        self._bytes -= count
        if self._bytes < 0:
            raise ResponseTooLargeError


def apply_deadline(client: "httpx2.Client", deadline: Deadline) -> None:
    """Apply a deadline to everything that a client sends and receives, also through proxies.

    Raises:
        IncompatibleLibraryError: The installed client's network backend cannot be replaced.
    """
    try:
        transports = [client._transport, *client._mounts.values()]
        for pool in (each._pool for each in transports if each):  # type: ignore[attr-defined]
            pool._network_backend = _Backend(pool._network_backend, deadline)
    except AttributeError as error:
        raise incompatible(
            "httpx2", f"has no network backend that can be replaced ({error})"
        ) from error


class _Backend:
    """Opens connections through the library's own network backend."""

    def __init__(self, inner: Any, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> "_Stream":
        """Connect to the first address of a name that responds, within one timeout for all."""
        import httpcore2

        end = time.monotonic() + self._deadline.remaining(timeout)
        found = _addresses(host, port, self._deadline.remaining(timeout))
        error: Exception = httpcore2.ConnectError(found if isinstance(found, str) else "no address")
        for address in [] if isinstance(found, str) else found:
            seconds = self._deadline.remaining(max(end - time.monotonic(), _MIN_TIMEOUT))
            try:
                stream = self._inner.connect_tcp(address, port, timeout=seconds, **options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
            else:
                return _Stream(stream, self._deadline)
            if time.monotonic() >= end:
                break
        raise error

    def sleep(self, seconds: float) -> None:
        """Wait between attempts."""
        self._inner.sleep(self._deadline.remaining(seconds))


class _Stream:
    """A connection on which every wait ends when the request's time is over."""

    def __init__(self, inner: Any, deadline: Deadline, *, nested: bool = False) -> None:
        self._inner, self._deadline, self._nested = inner, deadline, nested

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read the available bytes."""
        seconds = self._deadline.remaining(timeout)
        with self._timer(self._nested):
            data: bytes = self._inner.read(max_bytes, seconds)
        self._deadline.count_bytes(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write in pieces: the library restarts its timeout for each piece that is read."""
        view = memoryview(buffer)
        while view:
            seconds = self._deadline.remaining(timeout)
            with self._timer(self._nested):
                self._inner.write(bytes(view[: 1 << 12]), seconds)
            view = view[1 << 12 :]

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Stream":
        """Start TLS on the connection."""
        nested = self.get_extra_info("ssl_object") is not None
        seconds = self._deadline.remaining(timeout)
        with self._timer(True):
            stream = self._inner.start_tls(ssl_context, server_hostname, seconds)
        return _Stream(stream, self._deadline, nested=nested)

    def get_extra_info(self, info: str) -> Any:
        """Return the library's information on the connection."""
        return self._inner.get_extra_info(info)

    @contextmanager
    def _timer(self, needed: bool) -> Generator[None]:
        """Shut the connection down in time if one call of the library may wait many times."""
        if not needed:
            yield
            return
        timer = threading.Timer(
            self._deadline.remaining(), _shut_down, [self.get_extra_info("socket")]
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception:
            self._deadline.remaining()  # if no time remains, that caused the error
            raise
        finally:
            timer.cancel()


def _shut_down(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):
            # On the plain socket: TLS would first exchange messages with the peer.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _addresses(host: str, port: int, seconds: float) -> list[str] | str:
    """Return a name's addresses, or why there are none; the system's lookup has no timeout."""
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
        return f"its name was not resolved within {seconds:g} s"
    if isinstance(found[0], Exception):
        return str(found[0])
    return list(dict.fromkeys(str(entry[4][0]) for entry in found[0]))[:_MAX_ADDRESSES]
