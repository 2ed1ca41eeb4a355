"""Checks of an answer that a suite can require, read strictly from the suite.

``phi3_lora_qa.metrics.answer_checks`` runs them on an answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Any, ClassVar, TypeAlias

from phi3_lora_qa.data.json_schema import require_bounded_schema
from phi3_lora_qa.errors import DataError, escape
from phi3_lora_qa.patterns import Pattern, PatternError
from phi3_lora_qa.strict_values import describe_type, fits, suggest


@dataclass(frozen=True, kw_only=True)
class Regex:
    """The pattern matches somewhere in the answer; with ``absent`` it must not match anywhere.

    ``^`` and ``$`` match the answer's start and end. Back references, and flags other than ``i``
    and ``s``, are rejected, since they cannot be matched in bounded time.
    """

    kind: ClassVar = "regex"
    pattern: str
    absent: bool = False

    def __post_init__(self) -> None:
        try:
            Pattern(self.pattern)
        except PatternError as error:
            raise DataError(
                f"the pattern {escape(repr(self.pattern), 80)} is not supported ({error}); "
                "write a small one without back references and conditions"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Contains:
    """The answer contains the text, ignoring case and spacing; with ``absent`` it must not."""

    kind: ClassVar = "contains"
    text: str
    absent: bool = False

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError("'text' is empty, so every answer would contain it; write a text")


@dataclass(frozen=True, kw_only=True)
class Json:
    """The whole answer is one JSON value."""

    kind: ClassVar = "json"


@dataclass(frozen=True, kw_only=True)
class JsonSchema:
    """The whole answer is one JSON value that is valid under the schema, given as JSON text."""

    kind: ClassVar = "json_schema"
    schema: str

    def __post_init__(self) -> None:
        require_bounded_schema(self.schema)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The answer refuses to help if that is ``expected``, and does not otherwise."""

    kind: ClassVar = "refusal"
    expected: bool


@dataclass(frozen=True, kw_only=True)
class MaxWords:
    """The answer has at most this many words."""

    kind: ClassVar = "max_words"
    words: int

    def __post_init__(self) -> None:
        if self.words < 0:
            raise DataError("'words' is negative; write the maximum number of words")


AnswerCheck: TypeAlias = Regex | Contains | Json | JsonSchema | Refusal | MaxWords

KINDS: Mapping[str, type[AnswerCheck]] = {
    kind.kind: kind for kind in (Regex, Contains, Json, JsonSchema, Refusal, MaxWords)
}


def parse_checks(raw: object, where: str) -> tuple[AnswerCheck, ...]:
    """Read the value of ``checks``: a list of objects, each with ``kind`` and that kind's fields.

    Raises:
        DataError: A check is invalid; the message begins with ``where``.
    """
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise DataError(f'{where}: \'checks\' must be a list of objects such as {{"kind": "json"}}')
    return tuple(_parse(check, f"{where}: check {n}") for n, check in enumerate(raw, 1))


def checks_json(checks: Sequence[AnswerCheck]) -> str:
    """Return checks as JSON text, which ``parse_checks`` reads back as equal checks."""
    return json.dumps([{"kind": check.kind, **asdict(check)} for check in checks])


def _parse(raw: object, where: str) -> AnswerCheck:
    if not isinstance(raw, Mapping):
        raise DataError(f'{where} must be an object, such as {{"kind": "json"}}')
    name = raw.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        hint = suggest(str(name), KINDS, cutoff=0.6)
        raise DataError(f"{where} has the kind {_shown(name)}; {hint}")
    kind = KINDS[name]
    known = {field.name: field for field in fields(kind)}
    values = {field: value for field, value in raw.items() if field != "kind"}
    for field in values:
        if field not in known:
            hint = suggest(str(field), known, cutoff=0.6) if known else "remove it"
            raise DataError(f"{where} ({name}) has the unknown field {_shown(field)}; {hint}")
    for field in known.values():
        if field.name in values:
            values[field.name] = _value(values[field.name], field, f"{where} ({name})")
        elif field.default is MISSING:
            raise DataError(f"{where} ({name}) has no {field.name}; add it")
    try:
        return kind(**values)
    except DataError as error:
        raise DataError(f"{where} ({name}): {error}") from error


def _value(value: object, field: "Field[Any]", where: str) -> object:
    """Return a field's value; a schema given as an object is returned as JSON text."""
    if field.name == "schema" and isinstance(value, Mapping | bool):
        try:
            return json.dumps(value, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{where}: 'schema' is not JSON ({error}); fix it") from error
    if not fits(value, field.type):
        raise DataError(
            f"{where}: '{field.name}' must be {describe_type(field.type)}: got {_shown(value)}"
        )
    return value


def _shown(value: object) -> str:
    return escape(repr(value), 60)
