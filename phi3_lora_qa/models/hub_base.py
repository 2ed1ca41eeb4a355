"""A base on the Hugging Face hub, looked at in place: small files whole, weights in ranges."""

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
_SECONDS = 20.0
_SECONDS_TO_REACH = 5.0
_AHEAD = 1 << 16


def is_hub_id(text: str) -> bool:
    """Whether a text can be the id of a model on the hub, ``owner/name``."""
    return bool(_IDENTIFIER.fullmatch(text)) and not text.startswith(".")


def open_hub_base(identifier: str) -> BaseFiles:
    """Look at a base without downloading it.

    config.json and the tokenizer's files go into the hub's cache; of the weights, headers are
    read, and single rows of tensors where a rule asks for them.

    Raises:
        BaseModelError: The hub cannot be reached, or has no such Phi-3.
    """
    from huggingface_hub.errors import EntryNotFoundError

    _reach(identifier)
    try:
        folder = Path(_small(identifier, "config.json")).parent
        for name in TOKENIZER_FILES:
            try:
                _small(identifier, name)
            except EntryNotFoundError:
                continue
        try:
            index = Path(_small(identifier, WEIGHTS_INDEX))
            names = indexed_files(index.parent)
        except EntryNotFoundError:
            names = (WEIGHTS,)
        files = tuple(_remote(identifier, name) for name in names)
    except BaseModelError:
        raise
    except Exception as error:  # the hub's client has many kinds of failure
        raise BaseModelError(
            f"cannot look at {escape(identifier, 100)} on the hub ({type(error).__name__}: "
            f"{escape(str(error), 200)}); check the id and the network, or give a folder"
        ) from error
    return BaseFiles.open(folder, files, id=identifier)


def _reach(identifier: str) -> None:
    """Ask once for what is needed first: the hub's client would ask six times, in half a minute."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # both are documented
        build_hf_headers,
        get_session,
    )

    url = hf_hub_url(identifier, "config.json")
    try:
        get_session().head(
            url, headers=build_hf_headers(), follow_redirects=True, timeout=_SECONDS_TO_REACH
        )
    except Exception as error:  # of the network, or that it is switched off
        raise BaseModelError(
            f"cannot reach the hub to look at {escape(identifier, 100)} "
            f"({type(error).__name__}: {escape(str(error), 200)}); check the network, or give the "
            "base by its folder"
        ) from error


def _small(identifier: str, name: str) -> str:
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(identifier, name))


def _remote(identifier: str, name: str) -> SafetensorsFile:
    from huggingface_hub import hf_hub_url

    opener = partial(RangeFile, hf_hub_url(identifier, name))
    return open_safetensors(opener, name, error=BaseModelError)


class RangeFile(io.RawIOBase):
    """A file behind a URL, read in ranges, a little ahead of what is asked for.

    Raises:
        OSError: The server gives no size, or answers a range with something else.
    """

    def __init__(self, url: str) -> None:
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # both are documented
            build_hf_headers,
            get_session,
        )

        super().__init__()
        self._url, self._client, self._at = url, get_session(), 0
        self._headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        self._start, self._data = 0, b""
        answer = self._client.head(
            url, headers=self._headers, follow_redirects=True, timeout=_SECONDS
        )
        size = answer.headers.get("Content-Length", "")
        if answer.status_code != 200 or not size.isdecimal():
            raise OSError(f"{url} answers {answer.status_code} and no size")
        self._size = int(size)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read from any place."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, and return it."""
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        self._at = max(0, starts[whence] + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read at the present place; 0 at the end."""
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        skip = self._at - self._start
        if not 0 <= skip <= len(self._data) - wanted:
            self._fetch(max(wanted, _AHEAD))
            skip = 0
        memoryview(buffer)[:wanted] = self._data[skip : skip + wanted]
        self._at += wanted
        return wanted

    def _fetch(self, count: int) -> None:
        stop = min(self._at + count, self._size)
        headers = self._headers | {"Range": f"bytes={self._at}-{stop - 1}"}
        answer = self._client.get(
            self._url, headers=headers, follow_redirects=True, timeout=_SECONDS
        )
        if answer.status_code != 206 or len(answer.content) != stop - self._at:
            raise OSError(f"{self._url} answers a range with {answer.status_code}")
        self._start, self._data = self._at, answer.content
