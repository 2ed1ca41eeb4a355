"""Run the checks of an item on an answer."""

import json
from collections.abc import Sequence
from typing import Any

from phi3_lora_qa.data.answer_checks import (
    AnswerCheck,
    Contains,
    Json,
    JsonSchema,
    MaxWords,
    Refusal,
    Regex,
)
from phi3_lora_qa.metrics.refusals import is_refusal
from phi3_lora_qa.metrics.text_metrics import fold
from phi3_lora_qa.patterns import Budget, Pattern
from phi3_lora_qa.strict_values import reject_json_constant

_DIGITS = 4000
MOST_STEPS = 100_000_000
"""Enough for every pattern that a suite may have, on an answer of 10,000 characters."""


def passes(check: AnswerCheck, answer: str) -> bool:
    """Return whether the answer passes the check."""
    match check:
        case Regex():
            found = Pattern(check.pattern, Budget(MOST_STEPS)).search(answer.strip())
            return found != check.absent
        case Contains():
            return (fold(check.text) in fold(answer)) != check.absent
        case Json():
            return is_json(answer)
        case JsonSchema():
            return _is_valid(check.schema, answer)
        case Refusal():
            return is_refusal(answer) == check.expected
        case MaxWords():
            return len(answer.split()) <= check.words


def all_pass(checks: Sequence[AnswerCheck], answer: str) -> bool:
    """Return whether the answer passes all checks."""
    return all(passes(check, answer) for check in checks)


def is_json(answer: str) -> bool:
    """Return whether the whole answer is one JSON value (RFC 8259, so without NaN)."""
    try:
        _parse(answer)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(answer: str) -> Any:
    return json.loads(answer, parse_constant=reject_json_constant, parse_int=_parse_int)


def _parse_int(digits: str) -> int:
    """Return an integer of any length; Python's own ``int`` stops at 4,300 digits."""
    sign, rest = (-1, digits[1:]) if digits.startswith("-") else (1, digits)
    value = 0
    for start in range(0, len(rest), _DIGITS):
        part = rest[start : start + _DIGITS]
        value = value * 10 ** len(part) + int(part)
    return sign * value


def _is_valid(schema: str, answer: str) -> bool:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        # With an empty registry jsonschema cannot fetch what a reference names.
        validator = Draft202012Validator(json.loads(schema), registry=Registry())
        return validator.is_valid(_parse(answer))
    except (ValueError, OverflowError, RecursionError):
        return False
