"""The arguments of the public functions: a wrong type is an error that says what to pass."""

import os
from collections.abc import Iterable
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape


def require_path(value: object, name: str) -> Path:
    """Return a path argument as a path, with ``~`` for the home folder replaced.

    Raises:
        InputError: The value is not a path, or is empty.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{name} is not a path: got {_shown(value)}; pass a string or a Path")
    return Path(os.path.expanduser(text))  # noqa: PTH111  pathlib's raises for unknown users


def require_texts(value: object, name: str) -> tuple[str, ...]:
    """Return an argument that is a list of strings or paths; a single string is not a list.

    Raises:
        InputError: The value is not such a list.
    """
    is_text = isinstance(value, str | bytes)
    parts = tuple(value) if isinstance(value, Iterable) and not is_text else (None,)
    if not all(isinstance(part, str | Path) for part in parts):
        raise InputError(
            f"{name} is not a list of strings: got {_shown(value)}; pass a list, such as ['...']"
        )
    return tuple(map(str, parts))


def _shown(value: object) -> str:
    return escape(repr(value), 80)
