"""JSON from strangers: one meaning or none, within bounds of size and depth."""

import json
import math
from collections import Counter
from typing import Any, NoReturn

from phi3_lora_qa.errors import AdapterError, escape

MAX_DEPTH = 32


class _RefusedError(ValueError):
    """Why a document is refused, before it is known where it stands."""


def parse_json(
    data: bytes,
    *,
    where: str,
    max_bytes: int,
    max_depth: int = MAX_DEPTH,
    non_finite: bool = False,
) -> Any:
    """Return the value that ``data`` (UTF-8) holds.

    Two readers of one file must not see two things: duplicate keys are refused, and so is all that
    is no JSON though Python reads it (NaN, Infinity, ``1e999``, half surrogate pairs).

    Args:
        data: The bytes of the document.
        where: The name to use in messages; it is escaped here.
        max_bytes: The largest size that is read at all.
        max_depth: How many containers may be nested.
        non_finite: Whether NaN and Infinity are numbers, as Python writes them.

    Raises:
        AdapterError: The document is too large, too deep, ambiguous, or no JSON.
    """
    name = escape(where)
    if len(data) > max_bytes:
        raise AdapterError(f"{name} is larger than {max_bytes} bytes", "write it again with peft")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=float if non_finite else _no_constant,
            parse_float=_finite,
        )
        _check_tree(value, max_depth, surrogates=b"\\ud" in data.lower())
    except RecursionError:
        raise AdapterError(
            f"{name} is nested deeper than {max_depth} levels", "write it again with peft"
        ) from None
    except ValueError as error:
        raise AdapterError(
            f"{name} is no valid JSON: {escape(str(error))}",
            "save it again, it may be half written",
        ) from error
    return value


def parse_object(
    data: bytes, *, where: str, max_bytes: int, non_finite: bool = False
) -> dict[str, Any]:
    """Return the JSON object that ``data`` holds; anything but an object is refused too.

    Raises:
        AdapterError: As `parse_json`, or the document is no object.
    """
    value = parse_json(data, where=where, max_bytes=max_bytes, non_finite=non_finite)
    if not isinstance(value, dict):
        raise AdapterError(f"{escape(where)} holds no JSON object", "save it again with peft")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _RefusedError(f"the key {twice!r} stands twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise _RefusedError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _RefusedError(f"the number {text} is too large")
    return number


def _check_tree(value: Any, max_depth: int, *, surrogates: bool) -> None:
    """Walk level by level, so that depth costs no recursion."""
    level = [value]
    for _ in range(max_depth + 1):
        if surrogates:
            for text in (item for item in level if isinstance(item, str)):
                text.encode("utf-8")
        level = [child for item in level for child in _children(item, surrogates)]
        if not level:
            return
    raise _RefusedError(f"nested deeper than {max_depth} levels")


def _children(item: Any, keys: bool) -> list[Any]:
    if isinstance(item, dict):
        return [*item.values(), *item] if keys else list(item.values())
    return item if isinstance(item, list) else []
