"""Checks of an answer: what a suite's author demands of it, whatever its words; read strictly.

Here they are only read. ``phi3_lora_qa.metrics.answer_checks`` holds an answer against them.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Any, ClassVar, TypeAlias

from phi3_lora_qa.errors import DataError, escape
from phi3_lora_qa.patterns import Pattern, PatternError

UNBOUNDED_KEYWORDS = frozenset({"pattern", "patternProperties"})
"""JSON Schema's keywords that would hand a regular expression to Python's `re`."""

_NAMED = ("properties", "dependentSchemas", "$defs", "definitions")
"""The keywords below which the author gives the names."""


_ALONE, _LISTED = ("not", "if", "then", "else"), ("allOf", "anyOf", "oneOf")
"""The keywords whose schemas are for the same part of an answer as the schema itself."""


@dataclass(frozen=True, kw_only=True)
class Regex:
    """The pattern matches somewhere in the answer; nowhere, where it is to be ``absent``.

    ``^`` and ``$`` are the answer's beginning and end. Look-around, back references and flags are
    refused, as they cannot be matched in bounded time.
    """

    kind: ClassVar = "regex"
    pattern: str
    absent: bool = False

    def __post_init__(self) -> None:
        try:
            Pattern(self.pattern)
        except PatternError as error:
            raise DataError(
                f"the pattern {escape(repr(self.pattern), 80)} cannot be used ({error}); "
                "write a small one without look-around, back references and flags"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Contains:
    """The answer holds the text (lies free of it, where ``absent``), blind to case and spacing."""

    kind: ClassVar = "contains"
    text: str
    absent: bool = False

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError("'text' is empty, and every answer holds that; write some text")


@dataclass(frozen=True, kw_only=True)
class Json:
    """The whole answer is one JSON value."""

    kind: ClassVar = "json"


@dataclass(frozen=True, kw_only=True)
class JsonSchema:
    """The whole answer is one JSON value that fits the schema, which is kept as JSON text."""

    kind: ClassVar = "json_schema"
    schema: str

    def __post_init__(self) -> None:
        from jsonschema import Draft202012Validator, SchemaError

        try:
            schema = json.loads(self.schema)
            Draft202012Validator.check_schema(schema)
        except (ValueError, RecursionError, SchemaError) as error:
            why = error.message if isinstance(error, SchemaError) else str(error)
            raise DataError(
                f"'schema' is no JSON Schema ({escape(str(why), 200)}); mend it, as the draft "
                "2020-12 has it"
            ) from error
        if used := sorted(UNBOUNDED_KEYWORDS & _keywords(schema)):
            raise DataError(
                f"'schema' uses {used[0]}, which cannot be matched in bounded time; leave it out, "
                "and add a check of the kind regex"
            )
        if outside := [name for name in _references(schema) if not name.startswith("#")]:
            raise DataError(
                f"'schema' refers to {escape(repr(outside[0]), 80)}, and nothing is fetched; "
                "put it under $defs (a $schema other than the draft 2020-12: leave it out)"
            )
        if "$id" in set[str]().union(*map(_keywords, _below(schema))):
            raise DataError(
                "'schema' has a part with an $id of its own, which moves what references mean; "
                "leave it out"
            )
        if lost := _first_lost(schema):
            raise DataError(
                f"'schema' refers to {escape(repr(lost), 80)}, which is not in it; "
                "put it under $defs"
            )
        if loop := _first_loop(schema):
            raise DataError(
                f"'schema' has the reference {escape(repr(loop), 80)}, which leads back to itself "
                "and asks nothing on the way; refer from within properties or items"
            )


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The answer refuses to help, or, where that is not ``expected``, it does not."""

    kind: ClassVar = "refusal"
    expected: bool


@dataclass(frozen=True, kw_only=True)
class MaxWords:
    """The answer has at most so many words."""

    kind: ClassVar = "max_words"
    words: int

    def __post_init__(self) -> None:
        if self.words < 0:
            raise DataError("'words' is negative; write how many words an answer may have")


AnswerCheck: TypeAlias = Regex | Contains | Json | JsonSchema | Refusal | MaxWords

KINDS: Mapping[str, type[AnswerCheck]] = {
    kind.kind: kind for kind in (Regex, Contains, Json, JsonSchema, Refusal, MaxWords)
}


def parse_checks(raw: object, where: str) -> tuple[AnswerCheck, ...]:
    """Read the value of ``checks``: a list of objects, each with its ``kind`` and its own fields.

    Raises:
        DataError: A check is not exactly of its kind; the message begins with ``where``.
    """
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise DataError(f'{where}: \'checks\' must be a list of objects such as {{"kind": "json"}}')
    return tuple(_parse(check, f"{where}: check {n}") for n, check in enumerate(raw, 1))


def checks_json(checks: Sequence[AnswerCheck]) -> str:
    """Return checks as JSON text, from which ``parse_checks`` makes the same ones."""
    return json.dumps([{"kind": check.kind, **asdict(check)} for check in checks])


def _parse(raw: object, where: str) -> AnswerCheck:
    if not isinstance(raw, Mapping):
        raise DataError(f"{where} must be an object with a 'kind'; write one")
    name = raw.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise DataError(f"{where} has the kind {_shown(name)}; {_hint(name, tuple(KINDS))}")
    kind = KINDS[name]
    known = {field.name: field for field in fields(kind)}
    given = {field: value for field, value in raw.items() if field != "kind"}
    for field in given:
        if field not in known:
            raise DataError(
                f"{where} ({name}) has the unknown field {_shown(field)}; "
                f"{_hint(field, tuple(known)) if known else 'leave it out'}"
            )
    for field in known.values():
        if field.name in given:
            given[field.name] = _value(given[field.name], field, f"{where} ({name})")
        elif field.default is MISSING:
            raise DataError(f"{where} ({name}) has no {field.name}; add it")
    try:
        return kind(**given)
    except DataError as error:
        raise DataError(f"{where} ({name}): {error}") from error


def _value(value: object, field: "Field[Any]", where: str) -> object:
    """Return a field's value; a schema, which is an object, as JSON text."""
    if field.name == "schema" and isinstance(value, Mapping | bool):
        try:
            return json.dumps(value, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{where}: 'schema' is no JSON ({error}); mend it") from error
    words = {str: "text", bool: "true or false", int: "a whole number"}
    wanted = next(kind for kind in words if kind is field.type)
    if type(value) is not wanted:  # a bool is an int to Python, and true is no number of words
        raise DataError(f"{where}: '{field.name}' must be {words[wanted]}; write that")
    return value


def _keywords(schema: object) -> set[str]:
    """Return the names of the keywords in a schema, but not those that it gives to properties."""
    own = set(schema) if isinstance(schema, Mapping) else set[str]()
    return own.union(*map(_keywords, _below(schema)))


def _below(schema: object) -> list[object]:
    """Return what lies in a schema, or in a list of schemas."""
    if isinstance(schema, Mapping):
        parts = [
            part.values() if name in _NAMED and isinstance(part, Mapping) else [part]
            for name, part in schema.items()
        ]
        return [value for part in parts for value in part]
    return schema if isinstance(schema, list) else []


def _references(schema: object) -> list[str]:
    if isinstance(schema, Mapping):
        own = [str(schema[name]) for name in ("$ref", "$dynamicRef", "$schema") if name in schema]
        own = [name for name in own if not name.startswith("https://json-schema.org/draft/2020-12")]
        return own + [name for value in schema.values() for name in _references(value)]
    return [n for v in schema for n in _references(v)] if isinstance(schema, list) else []


def _resolver(schema: object) -> Any:
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    root: Registry[Any] = Registry()
    return root.resolver_with_root(DRAFT202012.create_resource(schema))


def _first_lost(schema: object) -> str:
    """Return the first reference that leads nowhere; empty where all are found."""
    from referencing.exceptions import Unresolvable

    resolver = _resolver(schema)
    for name in _references(schema):
        try:
            resolver.lookup(name)
        except Unresolvable:
            return name
    return ""


def _first_loop(schema: object) -> str:
    """Return a reference that is followed without end, as no part of the answer is left behind."""
    resolver = _resolver(schema)
    done, open_ = set[int](), set[int]()

    def follow(part: Any) -> str:
        if not isinstance(part, Mapping) or id(part) in done:
            return ""
        open_.add(id(part))
        for name in ("$ref", "$dynamicRef"):
            if name in part:
                there = resolver.lookup(part[name]).contents
                if found := str(part[name]) if id(there) in open_ else follow(there):
                    return found
        for below in _in_place(part):
            if found := follow(below):
                return found
        open_.remove(id(part))
        done.add(id(part))
        return ""

    def everywhere(part: object) -> str:
        return follow(part) or next(filter(None, map(everywhere, _below(part))), "")

    return everywhere(schema)


def _in_place(schema: Mapping[str, Any]) -> list[object]:
    """Return the schemas below that are held against the same part of the answer."""
    parts = [schema[name] for name in _ALONE if name in schema]
    listed = [part for name in _LISTED for part in schema.get(name, ())]
    return [*parts, *listed, *schema.get("dependentSchemas", {}).values()]


def _shown(value: object) -> str:
    return escape(repr(value), 60)


def _hint(name: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(known)}"
