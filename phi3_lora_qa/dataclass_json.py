"""Dataclasses to strict JSON values and back, checked against the types of their fields.

The types that occur are str, int, float, bool, None, Any, string enums, `Literal`, unions, tuples,
sequences, mappings with string keys, and dataclasses of these.
"""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

Json = Any
"""A value that ``json`` can write. The alias says in signatures what is meant."""

NOT_FINITE = ("nan", "inf", "-inf")
"""How strict JSON, which has no such numbers, stores a NaN or an infinity."""


def to_plain(value: Json) -> Json:
    """Return a dataclass (or any nesting of JSON values) as strict JSON values."""
    return _plain(asdict(value) if hasattr(value, "__dataclass_fields__") else value)


def from_plain(kind: type[T], value: Json) -> T:
    """Build a value of a type from its JSON form; the inverse of `to_plain`.

    Args:
        kind: A dataclass.
        value: What `to_plain` returned, or the same read from JSON.

    Returns:
        The dataclass; its sequences are tuples.

    Raises:
        ValueError: A field is missing, unknown, or of a wrong type; the message gives its path.
    """
    built: T = _build(kind, value, kind.__name__)
    return built


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


@cache
def required_fields(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields that have no default."""
    return tuple(
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    )


def _build(kind: Any, value: Json, where: str) -> Any:  # noqa: PLR0911 - one return for each type
    if kind is Any:
        return value
    if kind is float:
        return _number(value, where)
    if kind in (str, int, bool, types.NoneType):
        if type(value) is not kind:
            raise _wrong(where, kind.__name__, value)
        return value
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(_one_of(value, [member.value for member in kind], where))
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _one_of(value, arguments, where)
    if origin in (Union, types.UnionType):
        (other,) = (part for part in arguments if part is not types.NoneType)
        return None if value is None else _build(other, value, where)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _wrong(where, "an object", value)
        return {key: _build(arguments[1], part, f"{where}.{key}") for key, part in value.items()}
    return _tuple(arguments, value, where)


def _dataclass(kind: Any, value: Json, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    hints = hints_of(kind)
    for name in value:
        if name not in hints:
            raise ValueError(f"{where} has an unknown field {name!r}")
    for name in required_fields(kind):
        if name not in value:
            raise ValueError(f"{where} has no field {name!r}")
    return kind(
        **{name: _build(hints[name], part, f"{where}.{name}") for name, part in value.items()}
    )


def _tuple(arguments: tuple[Any, ...], value: Json, where: str) -> tuple[Any, ...]:
    """Read ``Sequence[T]``, ``tuple[T, ...]`` or ``tuple[T, U]``."""
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    open_ended = len(arguments) == 1 or arguments[-1] is Ellipsis
    kinds = [arguments[0]] * len(value) if open_ended else arguments
    if len(kinds) != len(value):
        raise ValueError(f"{where} must have {len(kinds)} values, found {len(value)}")
    return tuple(
        _build(kind, part, f"{where}[{number}]")
        for number, (kind, part) in enumerate(zip(kinds, value, strict=True))
    )


def _number(value: Json, where: str) -> float:
    if isinstance(value, str) and value in NOT_FINITE:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, "a number", value)
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{where} is too large for a number") from error


def _one_of(value: Json, known: Sequence[Any], where: str) -> Any:
    if not isinstance(value, str) or value not in known:
        raise _wrong(where, " or ".join(map(repr, known)), value)
    return value


def _wrong(where: str, expected: str, value: Json) -> ValueError:
    return ValueError(f"{where} must be {expected}, found {value!r:.60}")


def _plain(value: Json) -> Json:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case str():
            return _writable(value)
        case Mapping():
            return {_writable(str(k)): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case bool() | int() | float() | None:
            return value
        case _:
            return str(value)


def _writable(text: str) -> str:
    """Replace a lone surrogate, which a model may output and UTF-8 cannot encode."""
    return str(text).encode("utf-8", "replace").decode("utf-8")
