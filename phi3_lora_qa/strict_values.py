"""Strict reading of named values: checks names and types, and suggests the closest known name."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from phi3_lora_qa.close_match import did_you_mean
from phi3_lora_qa.errors import InputError, escape


def suggest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return "did you mean 'NAME'?", or all known names if none is similar."""
    names = list(known)
    return did_you_mean(name, names, cutoff=cutoff) or f"use one of {', '.join(names)}"


def require_known(raw: Mapping[str, object], known: Iterable[str], where: str) -> None:
    """Raise if a name is unknown, since a misspelt setting would silently keep its default.

    Raises:
        InputError: Names the key and the closest known one.
    """
    names = sorted(set(known))
    for name in raw:
        if name not in names:
            raise InputError(f"{where}: unknown key '{escape(name, 80)}'; {suggest(name, names)}")


def require_type(value: object, hint: object, name: str, where: str) -> None:
    """Raise if a value does not have the type that is documented for its name.

    Raises:
        InputError: Names the key, the value and the type.
    """
    if not fits(value, hint):
        shown = escape(repr(value), 60)
        raise InputError(f"{where}: '{name}' is {shown}; use {describe_type(hint)}")


def reject_json_constant(text: str) -> NoReturn:
    """Reject NaN and infinities, which Python's reader takes for JSON (``parse_constant``).

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{text} is not a JSON number")


def fits(value: object, hint: object) -> bool:  # noqa: PLR0911 - one return for each kind of hint
    """Return whether a value fits a type hint, for the hints that configuration classes use.

    An integer fits ``float``. NaN fits neither ``int`` nor ``float``, and nor does ``True``. A
    table fits a nested configuration class. Every value fits a hint of an unknown kind.
    """
    if hint is Any:
        return True
    arguments = get_args(hint)
    match get_origin(hint):
        case origin if origin is Union or origin is UnionType:
            return any(fits(value, one) for one in arguments)
        case origin if origin is Literal:
            return any(_is_choice(value, one) for one in arguments)
        case origin if origin is list:
            return isinstance(value, list | tuple) and all(fits(v, arguments[0]) for v in value)
        case origin if origin is tuple:
            return isinstance(value, list | tuple)
        case origin if origin is dict:
            return isinstance(value, Mapping)
    if not isinstance(hint, type):
        return True
    if hint in (int, float):
        kinds = int if hint is int else (int, float)
        finite = not isinstance(value, float) or math.isfinite(value)
        return isinstance(value, kinds) and not isinstance(value, bool) and finite
    if is_dataclass(hint) or issubclass(hint, dict):
        return isinstance(value, hint | Mapping)
    return isinstance(value, hint)


def _is_choice(value: object, choice: object) -> bool:
    # PEFT writes a family of names as "pissa_niter_[number of iters]".
    if isinstance(value, str) and isinstance(choice, str) and "[" in choice:
        return value.startswith(choice.partition("[")[0])
    return type(value) is type(choice) and value == choice


def describe_type(hint: object) -> str:
    """Return a type hint in words, such as "a whole number" or "true or false"."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        words = [describe_type(one) for one in arguments if one is not NoneType]
        return " or ".join(dict.fromkeys(words))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(one) for one in arguments)
    if get_origin(hint) is list:
        return "a list"
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "a string",
        Path: "a path",
    }
    if isinstance(hint, type) and not arguments:
        return names.get(hint, "a table" if issubclass(hint, dict) else hint.__name__)
    return "a table" if get_origin(hint) is dict else str(hint)
