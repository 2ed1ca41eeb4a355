"""JSON over HTTP with a server that is not trusted: bounded in time, in size and in tries."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

from phi3_lora_qa.errors import BaseModelError, InputError, Phi3LoraQAError, escape
from phi3_lora_qa.scoring.deadline import Deadline, OutOfTimeError, TooMuchError, bind
from phi3_lora_qa.scoring.secret_redaction import cleaned, cleaned_bytes

if TYPE_CHECKING:
    import httpx2

API_KEY_VARIABLE = "PHI3_LORA_QA_API_KEY"

_AGAIN = frozenset({429, 500, 502, 503, 504})
_LONGEST_PAUSE = 20.0
_ROOM_FOR_HEADERS = 1 << 20
_MOST_WORDS = 2000
_NO_PROXY = ("all://localhost", "all://127.0.0.1", "all://[::1]")
"""A server on this machine is asked directly, whatever proxy the environment names."""


class UnreachableError(BaseModelError):
    """The server cannot be reached at all: no address, no connection, no secure one."""


class ServerError(Phi3LoraQAError):
    """One request failed, or its reply cannot be used.

    ``status`` is HTTP's, 0 where none came. ``persistent`` says that the next request will most
    likely fare no better: the server is overloaded, breaks off, or refuses the caller.
    """

    def __init__(self, message: str, *, status: int = 0, persistent: bool = False) -> None:
        super().__init__(message)
        self.status, self.persistent = status, persistent


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """What one request may cost.

    ``timeout`` and ``connect`` are seconds: for a whole request, from looking up the server's name
    to the last byte of its reply, and for a connection. ``attempts``
    are the tries of a request that the server puts off, ``pause`` the seconds before the second,
    doubled before each further one. ``most_bytes`` is the size of the largest reply.
    """

    timeout: float = 120.0
    connect: float = 10.0
    attempts: int = 4
    pause: float = 0.5
    most_bytes: int = 64 << 20


class _LaterError(Exception):
    """To be tried again; ``final`` is what to raise when that is of no use."""

    def __init__(self, final: Phi3LoraQAError, wait: float = 0.0) -> None:
        self.final, self.wait = final, wait


class HttpClient:
    """A connection to one server, for any number of threads; a context manager.

    Args:
        url: Where the server's API begins, without a slash at the end.
        key: Sent as a bearer token; empty for none. No message ever holds it.
        bounds: What one request may cost.

    Raises:
        InputError: The key cannot be sent.
    """

    def __init__(self, url: str, key: str, bounds: RequestLimits) -> None:
        import httpx2

        if not (key.isascii() and key.isprintable()):
            raise InputError(
                f"{API_KEY_VARIABLE} holds a character that cannot be sent; set it again"
            )
        self.url, self._key, self._bounds = url, key, bounds
        self._stopped = threading.Event()
        headers = {"Accept-Encoding": "identity", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(bounds.timeout, connect=min(bounds.connect, bounds.timeout)),
            mounts=dict.fromkeys(_NO_PROXY),
        )
        self._deadline = Deadline()
        bind(self._client, self._deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Try nothing again from now on."""
        self._stopped.set()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return the JSON object that comes back.

        Raises:
            UnreachableError: There is no server, after all tries.
            ServerError: It did not answer with a usable object, after all tries.
        """
        for number in range(self._bounds.attempts):
            try:
                return self._once(method, path, body)
            except _LaterError as later:
                pause = max(self._bounds.pause * 2**number, min(later.wait, _LONGEST_PAUSE))
                last = number + 1 == self._bounds.attempts
                if last or self._stopped.wait(pause):
                    raise later.final from None
        raise AssertionError("attempts must be at least 1")

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        import httpx2

        bounds, response = self._bounds, None
        try:
            with (
                self._deadline.request(bounds.timeout, bounds.most_bytes + _ROOM_FOR_HEADERS),
                self._client.stream(method, self.url + path, json=body) as response,
            ):
                data = self._read(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise _LaterError(self._unreachable(error)) from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, UnicodeError) as error:
            raise self._unreachable(error) from error
        except (OutOfTimeError, httpx2.TimeoutException) as error:
            raise self._late(begun=response is not None) from error
        except TooMuchError as error:
            raise self._too_large() from error
        except httpx2.HTTPError as error:
            raise _LaterError(
                ServerError(
                    f"the server broke off ({self._clean(error)}); look into its log",
                    persistent=True,
                )
            ) from error
        if response.status_code != 200:
            self._refuse(response, data)
        return _object(data)

    def _read(self, response: "httpx2.Response") -> bytes:
        """Read the body as it came over the wire: nothing is unpacked, nothing is followed."""
        data = bytearray()
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > self._bounds.most_bytes:
                raise self._too_large()
        return bytes(data)

    def _late(self, *, begun: bool) -> ServerError:
        seconds = f"{self._bounds.timeout:g} s"
        return ServerError(
            f"the reply was not complete within {seconds}; look into the server's log"
            if begun
            else f"the server gave no answer within {seconds}; ask for less, or give it more room",
            persistent=True,
        )

    def _too_large(self) -> ServerError:
        return ServerError(
            f"the reply is larger than {self._bounds.most_bytes} bytes; "
            "look at what the server sends"
        )

    def _refuse(self, response: "httpx2.Response", data: bytes) -> NoReturn:
        status = response.status_code
        mends = {
            401: f"set {API_KEY_VARIABLE}",
            403: f"set {API_KEY_VARIABLE}",
            404: "give the address under which it serves /models and /completions; "
            "most often that ends in /v1",
        }
        mend = mends.get(status, "look into its log")
        if 300 <= status < 400:
            mend = "give the address that it sends one to"
        words = self._clean(_words(cleaned_bytes(data, self._key)))
        error = ServerError(
            f"the server answered {status} ({words}); {mend}",
            status=status,
            persistent=status in _AGAIN or status in mends,
        )
        if status in _AGAIN:
            raise _LaterError(error, _seconds(response.headers.get("Retry-After", "")))
        raise error

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"the server {self.url} cannot be reached ({self._clean(error)}); "
            "start it, or score here with --phi3-backend transformers"
        )

    def _clean(self, words: object) -> str:
        """Text from the other side, without the key, printable and bounded."""
        text = str(words) or type(words).__name__
        return escape(cleaned(text[:_MOST_WORDS], self._key), 200)


def _object(data: bytes) -> dict[str, Any]:
    """Return the JSON object; NaN and infinities, which Python would read, are no JSON."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ServerError(
            f"the reply is no JSON ({escape(str(error), 100)}); look at what the server sends"
        ) from error
    if not isinstance(value, dict):
        raise ServerError("the reply is no JSON object; give a server with OpenAI's API")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _words(data: bytes) -> str:
    """What an error's body says; servers wrap it in different ways."""
    text = data[:_MOST_WORDS].decode("utf-8", "replace")
    try:
        value = json.loads(text)
        inner = value.get("error", value)
        found = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else inner
    except (ValueError, RecursionError, AttributeError):
        found = None
    return str(found) if found else " ".join(text.split()) or "no words"


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
