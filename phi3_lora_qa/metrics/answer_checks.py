"""Whether an answer holds what its item's checks demand."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from phi3_lora_qa.data.answer_checks import (
    AnswerCheck,
    Contains,
    Json,
    JsonSchema,
    MaxWords,
    Refusal,
    Regex,
)
from phi3_lora_qa.metrics.refusals import refuses
from phi3_lora_qa.metrics.text_metrics import fold
from phi3_lora_qa.patterns import Budget, Pattern

_DIGITS = 4000
MOST_STEPS = 100_000_000
"""Enough for every pattern that a suite may hold on an answer of 10,000 characters."""


def holds(check: AnswerCheck, answer: str) -> bool:
    """Return whether the answer is what the check demands."""
    match check:
        case Regex():
            found = Pattern(check.pattern, Budget(MOST_STEPS)).search(answer.strip())
            return found != check.absent
        case Contains():
            return (fold(check.text) in fold(answer)) != check.absent
        case Json():
            return is_json(answer)
        case JsonSchema():
            return _fits(check.schema, answer)
        case Refusal():
            return refuses(answer) == check.expected
        case MaxWords():
            return len(answer.split()) <= check.words


def all_hold(checks: Sequence[AnswerCheck], answer: str) -> bool:
    """Return whether the answer is all that the checks demand."""
    return all(holds(check, answer) for check in checks)


def is_json(answer: str) -> bool:
    """Return whether the whole answer is one value of JSON (RFC 8259: without NaN)."""
    try:
        _value(answer)
    except (ValueError, RecursionError):
        return False
    return True


def _value(answer: str) -> Any:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    return json.loads(answer, parse_constant=refuse, parse_int=_whole)


def _whole(digits: str) -> int:
    """Return a whole number of any length; Python's own reading ends at 4,300 digits."""
    sign, rest = (-1, digits[1:]) if digits.startswith("-") else (1, digits)
    value = 0
    for start in range(0, len(rest), _DIGITS):
        part = rest[start : start + _DIGITS]
        value = value * 10 ** len(part) + int(part)
    return sign * value


def _fits(schema: str, answer: str) -> bool:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        # A registry of its own, or jsonschema would fetch what a reference names.
        validator = Draft202012Validator(json.loads(schema), registry=Registry())
        return validator.is_valid(_value(answer))
    except (ValueError, OverflowError, RecursionError):
        return False
