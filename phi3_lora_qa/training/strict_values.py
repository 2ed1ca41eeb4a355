"""Strict reading of named values: does a value fit a type hint, and which known name was meant."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from phi3_lora_qa.errors import InputError, escape


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that was most likely meant, as the end of a message."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(names)}"


def require_known(raw: Mapping[str, object], known: Iterable[str], where: str) -> None:
    """Refuse a name that nothing reads: a misspelt setting must not be a silent default.

    Raises:
        InputError: With the nearest known name.
    """
    names = set(known)
    for name in raw:
        if name not in names:
            raise InputError(f"{where}: unknown key '{escape(name, 80)}'; {nearest(name, names)}")


def require_type(value: object, hint: object, name: str, where: str) -> None:
    """Refuse a value of another type than the one that is documented for its name.

    Raises:
        InputError: With the type that it must have.
    """
    if not fits(value, hint):
        raise InputError(f"{where}: '{name}' is {escape(repr(value), 60)}; give {_in_words(hint)}")


def fits(value: object, hint: object) -> bool:  # noqa: PLR0911 - one return a kind of hint
    """Tell whether a value fits a type hint, for the hints that configuration classes use.

    A whole number fits ``float``, and NaN nothing; ``True`` fits neither ``int`` nor ``float``. A
    table fits where a nested configuration class is wanted. A hint of a kind that is not known here
    always fits.
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


def _in_words(hint: object) -> str:
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        words = [_in_words(one) for one in arguments if one is not NoneType]
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
