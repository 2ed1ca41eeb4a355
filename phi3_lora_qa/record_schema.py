"""The JSON Schema of ``record.json``, generated from the dataclasses of `record`.

``python -m phi3_lora_qa.record_schema`` (``make schema``) writes ``record.schema.json`` anew.
"""

import json
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from phi3_lora_qa.dataclass_json import NOT_FINITE, Json, hints_of
from phi3_lora_qa.record import SCHEMA_VERSION, RunRecord

SCHEMA_FILE = Path(__file__).with_name("record.schema.json")
_PLAIN = {str: "string", int: "integer", bool: "boolean", types.NoneType: "null"}


def record_schema() -> dict[str, Json]:
    """Return the JSON Schema (draft 2020-12) of a record."""
    definitions: dict[str, Json] = {}
    root = _schema_of(RunRecord, definitions)
    definitions["RunRecord"]["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"phi3-lora-qa run record, version {SCHEMA_VERSION}",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """Return the content of ``record.schema.json``."""
    return json.dumps(record_schema(), indent=2) + "\n"


def _schema_of(  # noqa: PLR0911 - one return for each type
    kind: Any, definitions: dict[str, Json]
) -> dict[str, Json]:
    """Return the schema of a type; those of dataclasses and enums are added to the definitions."""
    if kind is Any:
        return {}
    if kind is float:
        return {"anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}]}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, StrEnum)):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}
            definitions[kind.__name__] = _definition(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema_of(part, definitions) for part in arguments]}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], definitions)}
    return {"type": "array", "items": _schema_of(arguments[0], definitions)}


def _definition(kind: Any, definitions: dict[str, Json]) -> dict[str, Json]:
    description = (kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    if issubclass(kind, StrEnum):
        return {"description": description, "enum": [member.value for member in kind]}
    hints = hints_of(kind)
    return {
        "description": description,
        "type": "object",
        "properties": {name: _schema_of(hint, definitions) for name, hint in hints.items()},
        "required": list(hints),
        "additionalProperties": False,
    }


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
