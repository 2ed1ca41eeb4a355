"""Readers for the values of adapter_config.json; each accepts one form or raises ValueError.

The text of the error completes a sentence that starts with the name of the field.
"""

# ruff: noqa: TRY004 - a wrong type in a file is reported like any other wrong value

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

MAX_RANK = 1 << 16
MAX_NAMES = 2048
MAX_PATTERNS = 512


@dataclass(frozen=True, kw_only=True)
class Field:
    """How to read one field; ``default`` is the value of a missing field.

    ``if_missing`` says what peft does without a required field.
    """

    read: Callable[[Any], Any]
    default: Any = None
    required: bool = False
    if_missing: str = ""


def boolean(value: Any) -> bool:
    """Read true or false; 0 and 1 are rejected."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def flag(value: Any) -> bool:
    """Read true or false; peft treats null like false, and some programs write it."""
    return value is not None and boolean(value)


def rank(value: Any) -> int:
    """Read a rank: a positive integer."""
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise ValueError(f"must be an integer from 1 to {MAX_RANK}")
    return value


def number(value: Any) -> float:
    """Read a finite number in the range of float32, which all arithmetic with it uses."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("must be a number")
    if abs(value) > 3e38 or not math.isfinite(value):  # isfinite raises on huge integers
        raise ValueError("must be a finite number")
    return float(value)


def probability(value: Any) -> float:
    """Read a number of at least 0 and less than 1."""
    read = number(value)
    if not 0 <= read < 1:
        raise ValueError("must be at least 0 and less than 1")
    return read


def text(value: Any) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def optional(read: Callable[[Any], Any], default: Any = None) -> Callable[[Any], Any]:
    """Accept null for the default."""
    return lambda value: default if value is None else read(value)


def one_of(*choices: Any) -> Callable[[Any], Any]:
    """Read one of these values; the type must match, so 1 is not true."""

    def read(value: Any) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise ValueError(f"must be one of {', '.join(map(_format_choice, choices))}")

    return read


def names(value: Any) -> tuple[str, ...]:
    """Read a list of names."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError("must be a list of names")
    if len(value) > MAX_NAMES:
        raise ValueError(f"must have at most {MAX_NAMES} names")
    return tuple(value)


def names_or_pattern(value: Any) -> tuple[str, ...] | str:
    """Read a list of names, or one regular expression."""
    return text(value) if isinstance(value, str) else names(value)


def name_or_names(value: Any) -> tuple[str, ...]:
    """Read one name or a list of names; an empty string means no names, as in peft."""
    return tuple(filter(None, (value,))) if isinstance(value, str) else names(value)


def layers(value: Any) -> tuple[int, ...] | None:
    """Read one layer index or a list; an empty list means all layers, as in peft."""
    items = value if isinstance(value, list) else [value]
    if not all(type(item) is int and 0 <= item < 100_000 for item in items):
        raise ValueError("must be a layer index or a list of them")
    if len(items) > MAX_NAMES:
        raise ValueError(f"must have at most {MAX_NAMES} indices")
    return tuple(items) or None


def table(read: Callable[[Any], Any]) -> Callable[[Any], Mapping[str, Any]]:
    """Read an object that maps patterns to values, in file order: the first match wins."""

    def read_table(value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must map names to numbers")
        if len(value) > MAX_PATTERNS:
            raise ValueError(f"must have at most {MAX_PATTERNS} entries")
        found = {}
        for key, item in value.items():
            try:
                found[key] = read(item)
            except ValueError as error:
                raise ValueError(f"[{key!r}] {error}") from None
        return MappingProxyType(found)

    return read_table


def ignored_object(value: Any) -> None:
    """Accept null or an object: peft ignores it for every accepted init label."""
    if value is not None and not isinstance(value, dict):
        raise ValueError("must be an object or null")


def _format_choice(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
