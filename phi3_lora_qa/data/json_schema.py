"""Which JSON Schemas a suite may use: valid, self-contained, and checked in bounded time."""

import json
from collections.abc import Mapping
from typing import Any

from phi3_lora_qa.errors import DataError, escape

UNBOUNDED_KEYWORDS = frozenset({"pattern", "patternProperties"})
"""Keywords whose regular expressions Python's `re` would match, in unbounded time."""

_NAMED = ("properties", "dependentSchemas", "$defs", "definitions")
"""Keywords whose value maps names chosen by the author to schemas."""

_SINGLE, _LISTED = ("not", "if", "then", "else"), ("allOf", "anyOf", "oneOf")
"""Keywords whose schemas apply to the same part of an answer as the schema itself."""


def require_bounded_schema(text: str) -> None:
    """Raise unless a JSON Schema is valid, refers only to itself, and ends on every answer.

    Args:
        text: The schema as JSON text, draft 2020-12.

    Raises:
        DataError: Says what is wrong with the schema and how to fix it.
    """
    schema = _parse(text)
    if used := sorted(UNBOUNDED_KEYWORDS & _keywords(schema)):
        raise DataError(
            f"'schema' uses {used[0]}, which cannot be matched in bounded time; remove it, "
            "and add a check of the kind regex"
        )
    if outside := [name for name in _references(schema) if not name.startswith("#")]:
        raise DataError(
            f"'schema' refers to {escape(repr(outside[0]), 80)}, which is never fetched; "
            "put it under $defs (remove a $schema other than draft 2020-12)"
        )
    if "$id" in set[str]().union(*map(_keywords, _subschemas(schema))):
        raise DataError(
            "'schema' has a subschema with its own $id, which changes what references mean; "
            "remove the $id"
        )
    if missing := _first_unresolved(schema):
        raise DataError(
            f"'schema' refers to {escape(repr(missing), 80)}, which it does not contain; "
            "put it under $defs"
        )
    if loop := _first_loop(schema):
        raise DataError(
            f"'schema' has the reference {escape(repr(loop), 80)}, which leads back to itself "
            "for the same part of the answer; refer to it from within properties or items"
        )


def _parse(text: str) -> Any:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        schema = json.loads(text)
        Draft202012Validator.check_schema(schema)
    except (ValueError, RecursionError, SchemaError) as error:
        why = error.message if isinstance(error, SchemaError) else str(error)
        raise DataError(
            f"'schema' is not a valid JSON Schema ({escape(str(why), 200)}); correct "
            "it according to draft 2020-12"
        ) from error
    return schema


def _keywords(schema: object) -> set[str]:
    """Return the keywords in a schema and its subschemas, but not the names of properties."""
    own = set(schema) if isinstance(schema, Mapping) else set[str]()
    return own.union(*map(_keywords, _subschemas(schema)))


def _subschemas(schema: object) -> list[object]:
    """Return the values directly below a schema, or the items of a list of schemas."""
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


def _first_unresolved(schema: object) -> str:
    """Return the first reference that the schema does not contain; empty if there is none."""
    from referencing.exceptions import Unresolvable

    resolver = _resolver(schema)
    for name in _references(schema):
        try:
            resolver.lookup(name)
        except Unresolvable:
            return name
    return ""


def _first_loop(schema: object) -> str:
    """Return a reference that leads back to itself without descending into the answer."""
    resolver = _resolver(schema)
    done, open_ = set[int](), set[int]()

    def follow(part: Any) -> str:
        if not isinstance(part, Mapping) or id(part) in done:
            return ""
        open_.add(id(part))
        for name in ("$ref", "$dynamicRef"):
            if name in part:
                target = resolver.lookup(part[name]).contents
                if found := str(part[name]) if id(target) in open_ else follow(target):
                    return found
        for below in _in_place(part):
            if found := follow(below):
                return found
        open_.remove(id(part))
        done.add(id(part))
        return ""

    def search(part: object) -> str:
        return follow(part) or next(filter(None, map(search, _subschemas(part))), "")

    return search(schema)


def _in_place(schema: Mapping[str, Any]) -> list[object]:
    """Return the subschemas that apply to the same part of the answer."""
    parts = [schema[name] for name in _SINGLE if name in schema]
    listed = [part for name in _LISTED for part in schema.get(name, ())]
    return [*parts, *listed, *schema.get("dependentSchemas", {}).values()]
