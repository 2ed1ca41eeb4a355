"""A base on the Hugging Face hub, inspected remotely: small files whole, weights in ranges."""

import io
import re
from functools import partial
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.base_files import WEIGHTS, WEIGHTS_INDEX, BaseFiles, indexed_files
from phi3_lora_qa.adapter.folder import TOKENIZER_FILES
from phi3_lora_qa.adapter.safetensors_file import SafetensorsFile, open_safetensors
from phi3_lora_qa.errors import BaseModelError, escape

_IDENTIFIER = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_TIMEOUT = 20.0
_REACH_TIMEOUT = 5.0
_READ_AHEAD = 1 << 16


def is_hub_id(text: str) -> bool:
    """Return whether a text can be the id of a model on the hub, ``owner/name``."""
    return bool(_IDENTIFIER.fullmatch(text)) and not text.startswith(".")


def open_hub_base(identifier: str) -> BaseFiles:
    """Open a base without downloading its weights.

    config.json and the tokenizer's files are downloaded into the hub's cache. Of the weights, only
    the headers are read, and single rows of tensors where a rule needs them.

    Raises:
        BaseModelError: The hub cannot be reached, or has no such Phi-3.
    """
    from huggingface_hub.errors import EntryNotFoundError

    _require_reachable(identifier)
    try:
        folder = Path(_download_small(identifier, "config.json")).parent
        for name in TOKENIZER_FILES:
            try:
                _download_small(identifier, name)
            except EntryNotFoundError:
                continue
        try:
            index = Path(_download_small(identifier, WEIGHTS_INDEX))
            names = indexed_files(index.parent)
        except EntryNotFoundError:
            names = (WEIGHTS,)
        files = tuple(_open_remote(identifier, name) for name in names)
    except BaseModelError:
        raise
    except Exception as error:  # the hub's client has many kinds of failure
        raise BaseModelError(
            f"cannot open {escape(identifier, 100)} on the hub: {type(error).__name__}: "
            f"{escape(str(error), 200)}; check the id and the network, or pass a folder"
        ) from error
    return BaseFiles.open(folder, files, id=identifier)


def _require_reachable(identifier: str) -> None:
    """Request one file once; the hub's client would try six times, for half a minute."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # both are documented
        build_hf_headers,
        get_session,
    )

    url = hf_hub_url(identifier, "config.json")
    try:
        get_session().head(
            url, headers=build_hf_headers(), follow_redirects=True, timeout=_REACH_TIMEOUT
        )
    except Exception as error:  # a network error, or offline mode
        raise BaseModelError(
            f"cannot reach the hub to open {escape(identifier, 100)}: {type(error).__name__}: "
            f"{escape(str(error), 200)}; check the network, or pass the base as a folder"
        ) from error


def _download_small(identifier: str, name: str) -> str:
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(identifier, name))


def _open_remote(identifier: str, name: str) -> SafetensorsFile:
    from huggingface_hub import hf_hub_url

    opener = partial(RangeFile, hf_hub_url(identifier, name))
    return open_safetensors(opener, name, error=BaseModelError)


class RangeFile(io.RawIOBase):
    """A file at a URL, read in ranges, a little ahead of what is requested.

    Raises:
        OSError: The server reports no size, or does not return the requested range.
    """

    def __init__(self, url: str) -> None:
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # both are documented
            build_hf_headers,
            get_session,
        )

        super().__init__()
        self._url, self._client, self._position = url, get_session(), 0
        self._headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        self._start, self._data = 0, b""
        response = self._client.head(
            url, headers=self._headers, follow_redirects=True, timeout=_TIMEOUT
        )
        size = response.headers.get("Content-Length", "")
        if response.status_code != 200 or not size.isdecimal():
            raise OSError(f"{url} returned status {response.status_code} and no size")
        self._size = int(size)

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: reading can start at any position."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        self._position = max(0, starts[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read at the current position; return the number of bytes, 0 at the end."""
        count = min(len(buffer), self._size - self._position)
        if count <= 0:
            return 0
        skip = self._position - self._start
        if not 0 <= skip <= len(self._data) - count:
            self._fetch(max(count, _READ_AHEAD))
            skip = 0
        memoryview(buffer)[:count] = self._data[skip : skip + count]
        self._position += count
        return count

    def _fetch(self, count: int) -> None:
        stop = min(self._position + count, self._size)
        headers = self._headers | {"Range": f"bytes={self._position}-{stop - 1}"}
        response = self._client.get(
            self._url, headers=headers, follow_redirects=True, timeout=_TIMEOUT
        )
        if response.status_code != 206 or len(response.content) != stop - self._position:
            raise OSError(f"{self._url} returned status {response.status_code} for a range")
        self._start, self._data = self._position, response.content
