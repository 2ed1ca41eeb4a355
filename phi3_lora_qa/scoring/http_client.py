"""JSON over HTTP with an untrusted server: limited in time, in size and in attempts."""

import json
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

from phi3_lora_qa.errors import BaseModelError, InputError, Phi3LoraQAError, escape
from phi3_lora_qa.scoring.deadline import (
    Deadline,
    DeadlineExceededError,
    ResponseTooLargeError,
    apply_deadline,
)
from phi3_lora_qa.scoring.secret_redaction import redact, redact_bytes
from phi3_lora_qa.strict_values import reject_json_constant

if TYPE_CHECKING:
    import httpx2

API_KEY_VARIABLE = "PHI3_LORA_QA_API_KEY"

_RETRIED = frozenset({429, 500, 502, 503, 504})
_MAX_RETRY_AFTER = 20.0
_MAX_HEADER_BYTES = 1 << 20
_MAX_MESSAGE = 2000
_NO_PROXY = ("all://localhost", "all://127.0.0.1", "all://[::1]")
"""A server on this machine is contacted directly, even if the environment names a proxy."""
_JITTER = random.Random()  # the global generator's state is the user's


class UnreachableError(BaseModelError):
    """The server cannot be reached: no address, no connection, or no TLS."""


class ServerError(Phi3LoraQAError):
    """One request failed, or its response cannot be used.

    ``status`` is the HTTP status, 0 if there was none. ``persistent`` says that the next request
    will most likely fail too: the server is overloaded, closes connections, or refuses the client.
    """

    def __init__(self, message: str, *, status: int = 0, persistent: bool = False) -> None:
        super().__init__(message)
        self.status, self.persistent = status, persistent


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """The limits of one request.

    ``timeout`` is in seconds for a whole request, from the DNS lookup to the last byte of the
    response; ``connect`` is in seconds for a connection. ``attempts`` is how often a request is
    sent if the server asks to retry. ``pause`` is in seconds before the second attempt, and doubles
    before each further one. ``jitter`` is the largest fraction by which a pause is randomly
    extended, so that several clients do not retry at the same time. ``max_bytes`` is the size of
    the largest response.
    """

    timeout: float = 120.0
    connect: float = 10.0
    attempts: int = 4
    pause: float = 0.5
    jitter: float = 0.5
    max_bytes: int = 64 << 20

    def pause_before(self, retry: int, retry_after: float) -> float:
        """Return the seconds to wait before a retry.

        Args:
            retry: The number of the retry, from 0.
            retry_after: The seconds that the server asked for; 0 if it did not.
        """
        pause = max(self.pause * 2**retry, min(retry_after, _MAX_RETRY_AFTER))
        return pause * (1.0 + _JITTER.uniform(0.0, self.jitter))


class _RetryError(Exception):
    """The request may be sent again; ``final`` is raised if there are no attempts left."""

    def __init__(self, final: Phi3LoraQAError, retry_after: float = 0.0) -> None:
        self.final, self.retry_after = final, retry_after


class HttpClient:
    """A connection to one server, for any number of threads; a context manager.

    Args:
        url: The address of the server's API, without a slash at the end.
        api_key: Sent as a bearer token; empty for none. No message ever contains it.
        limits: The limits of one request.

    Raises:
        InputError: The key contains a character that cannot be sent.
    """

    def __init__(self, url: str, api_key: str, limits: RequestLimits) -> None:
        import httpx2

        if not (api_key.isascii() and api_key.isprintable()):
            raise InputError(
                f"{API_KEY_VARIABLE} contains a character that cannot be sent; set it again"
            )
        self.url, self._api_key, self._limits = url, api_key, limits
        self._stopped = threading.Event()
        headers = {"Accept-Encoding": "identity", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._client = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(limits.timeout, connect=min(limits.connect, limits.timeout)),
            mounts=dict.fromkeys(_NO_PROXY),
        )
        self._deadline = Deadline()
        apply_deadline(self._client, self._deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Do not retry any request from now on."""
        self._stopped.set()

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request and return the JSON object of the response.

        Raises:
            UnreachableError: The server cannot be reached, after all attempts.
            ServerError: There was no usable response, after all attempts.
        """
        for number in range(self._limits.attempts):
            try:
                return self._send(method, path, body)
            except _RetryError as retry:
                pause = self._limits.pause_before(number, retry.retry_after)
                is_last = number + 1 == self._limits.attempts
                if is_last or self._stopped.wait(pause):
                    raise retry.final from None
        raise AssertionError("attempts must be at least 1")

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        import httpx2

        limits, response = self._limits, None
        try:
            with (
                self._deadline.request(limits.timeout, limits.max_bytes + _MAX_HEADER_BYTES),
                self._client.stream(method, self.url + path, json=body) as response,
            ):
                data = self._read(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise _RetryError(self._unreachable(error)) from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, UnicodeError) as error:
            raise self._unreachable(error) from error
        except (DeadlineExceededError, httpx2.TimeoutException) as error:
            raise self._timed_out(has_begun=response is not None) from error
        except ResponseTooLargeError as error:
            raise self._too_large() from error
        except httpx2.HTTPError as error:
            raise _RetryError(
                ServerError(
                    f"the server closed the connection: {self._clean(error)}; check its log",
                    persistent=True,
                )
            ) from error
        if response.status_code != 200:
            self._raise_for_status(response, data)
        return _parse_object(data)

    def _read(self, response: "httpx2.Response") -> bytes:
        """Read the body as it was sent: nothing is decompressed, and no redirect is followed."""
        data = bytearray()
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > self._limits.max_bytes:
                raise self._too_large()
        return bytes(data)

    def _timed_out(self, *, has_begun: bool) -> ServerError:
        seconds = f"{self._limits.timeout:g} s"
        return ServerError(
            f"the response was not complete within {seconds}; check the server's log"
            if has_begun
            else f"the server did not respond within {seconds}; send fewer requests, or give it "
            "more resources",
            persistent=True,
        )

    def _too_large(self) -> ServerError:
        return ServerError(
            f"the response is larger than {self._limits.max_bytes} bytes; "
            "check what the server sends"
        )

    def _raise_for_status(self, response: "httpx2.Response", data: bytes) -> NoReturn:
        status = response.status_code
        fixes = {
            401: f"set {API_KEY_VARIABLE}",
            403: f"set {API_KEY_VARIABLE}",
            404: "use the address under which it serves /models and /completions, which usually "
            "ends in /v1",
        }
        fix = fixes.get(status, "check its log")
        if 300 <= status < 400:
            fix = "use the address to which it redirects"
        message = self._clean(_error_message(redact_bytes(data, self._api_key)))
        error = ServerError(
            f"the server responded with status {status}: {message}; {fix}",
            status=status,
            persistent=status in _RETRIED or status in fixes,
        )
        if status in _RETRIED:
            raise _RetryError(error, _seconds(response.headers.get("Retry-After", "")))
        raise error

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"the server {self.url} cannot be reached: {self._clean(error)}; "
            "start it, or score here with --phi3-backend transformers"
        )

    def _clean(self, message: object) -> str:
        """Return the server's text without the key, printable and limited in length."""
        text = str(message) or type(message).__name__
        return escape(redact(text[:_MAX_MESSAGE], self._api_key), 200)


def _parse_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object; NaN and infinities, which Python would accept, are not JSON."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=reject_json_constant)
    except (ValueError, RecursionError) as error:
        raise ServerError(
            f"the response is not JSON: {escape(str(error), 100)}; check what the server sends"
        ) from error
    if not isinstance(value, dict):
        raise ServerError("the response is not a JSON object; use a server with OpenAI's API")
    return value


def _error_message(data: bytes) -> str:
    """Return the message in an error's body; servers nest it in different ways."""
    text = data[:_MAX_MESSAGE].decode("utf-8", "replace")
    try:
        value = json.loads(text)
        inner = value.get("error", value)
        message = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else inner
    except (ValueError, RecursionError, AttributeError):
        message = None
    return str(message) if message else " ".join(text.split()) or "no message"


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
