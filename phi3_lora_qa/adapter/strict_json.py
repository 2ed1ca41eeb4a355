"""Strict JSON for untrusted files: bounded size and depth, and no ambiguous documents."""

import json
import math
from collections import Counter
from typing import Any

from phi3_lora_qa.adapter.file_kind import HEAD_BYTES, foreign_kind
from phi3_lora_qa.errors import AdapterError, escape
from phi3_lora_qa.strict_values import reject_json_constant

MAX_DEPTH = 32


class _RefusedError(ValueError):
    """Why a document is rejected; `parse_json` adds the name of the document."""


def parse_json(
    data: bytes,
    *,
    where: str,
    max_bytes: int,
    max_depth: int = MAX_DEPTH,
    allow_non_finite: bool = False,
) -> Any:
    """Parse a JSON document (UTF-8).

    Two readers of one file must not see different content. Duplicate keys are therefore rejected,
    as is everything that Python accepts and JSON does not have: NaN, Infinity, ``1e999``, and
    unpaired surrogates.

    Args:
        data: The bytes of the document.
        where: The name of the document for messages; it is escaped here.
        max_bytes: The maximum size in bytes.
        max_depth: The maximum number of nested containers.
        allow_non_finite: Whether to accept NaN and Infinity, which Python's json writes.

    Returns:
        The parsed value.

    Raises:
        AdapterError: The document is too large, too deep, ambiguous, or not JSON.
    """
    name = escape(where)
    if len(data) > max_bytes:
        raise AdapterError(
            f"{name} is too large: {len(data)} bytes, at most {max_bytes} are allowed",
            "save it again with peft",
        )
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=float if allow_non_finite else reject_json_constant,
            parse_float=_parse_finite,
        )
        _check_tree(value, max_depth, surrogates=b"\\ud" in data.lower())
    except RecursionError:
        raise AdapterError(
            f"{name} is nested deeper than {max_depth} levels", "save it again with peft"
        ) from None
    except ValueError as error:
        kind = foreign_kind("a.json", data[:HEAD_BYTES])
        if kind is not None:
            raise AdapterError(f"{name} is {kind}", kind.fix) from error
        raise AdapterError(
            f"{name} is not valid JSON: {escape(str(error))}",
            "save it again, because it may be incomplete",
        ) from error
    return value


def parse_object(
    data: bytes, *, where: str, max_bytes: int, allow_non_finite: bool = False
) -> dict[str, Any]:
    """Parse a JSON document that must be an object; see `parse_json`.

    Raises:
        AdapterError: As `parse_json`, or the document is not an object.
    """
    value = parse_json(data, where=where, max_bytes=max_bytes, allow_non_finite=allow_non_finite)
    if not isinstance(value, dict):
        raise AdapterError(
            f"{escape(where)} is not a JSON object: it is a {type(value).__name__}",
            "save it again with peft",
        )
    return value


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        duplicate = next(key for key, count in counts.items() if count > 1)
        raise _RefusedError(f"the key {duplicate!r} is duplicated")
    return found


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _RefusedError(f"the number {text} is too large")
    return number


def _check_tree(value: Any, max_depth: int, *, surrogates: bool) -> None:
    """Check the depth, and surrogates, level by level, without recursion."""
    level = [value]
    for _ in range(max_depth + 1):
        if surrogates:
            for text in (item for item in level if isinstance(item, str)):
                text.encode("utf-8")
        inner = [item for item in level if isinstance(item, (dict, list))]  # few of many
        level = [child for item in inner for child in _children(item, surrogates)]
        if not level:
            return
    raise _RefusedError(f"nested deeper than {max_depth} levels")


def _children(item: dict[str, Any] | list[Any], with_keys: bool) -> list[Any]:
    if isinstance(item, dict):
        return [*item.values(), *item] if with_keys else list(item.values())
    return item
