"""A suite may use only valid, self-contained schemas that are checked in bounded time."""

import json
from typing import Any

import pytest

from phi3_lora_qa.data.json_schema import require_bounded_schema
from phi3_lora_qa.errors import DataError


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {"type": "array", "items": {"$ref": "#/$defs/pattern"},
         "$defs": {"pattern": {"type": "string"}}},
        {"$id": "http://a.bc/d", "$ref": "#here", "properties": {"$id": {"$anchor": "here"}}},
        {"$schema": "https://json-schema.org/draft/2020-12/schema"},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"properties": {"pattern": {"type": "string"}}},
    ],
)  # fmt: skip
def test_a_self_contained_schema_is_accepted(schema: object) -> None:
    require_bounded_schema(json.dumps(schema))


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "text"}, "not a valid JSON Schema"),
        ({"items": {"pattern": "(a|a)*b"}}, "uses pattern"),
        ({"patternProperties": {"a": {}}}, "uses patternProperties"),
        ({"$ref": "http://a.bc/s"}, "which is never fetched"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "remove a .schema other than"),
        ({"$ref": "#/$defs/lost"}, "which it does not contain"),
        ({"x": {"y": {"$ref": "#nowhere"}}}, "which it does not contain"),
        ({"$defs": {"a": {"$id": "http://a.bc/d"}}}, "its own .id"),
        ({"$ref": "#"}, "the reference '#', which leads back to itself"),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/b"}},
                "$defs": {"b": {"allOf": [{"$ref": "#/$defs/c"}]}, "c": {"$ref": "#/$defs/b"}},
            },
            "leads back to itself",
        ),
    ],
)
def test_another_schema_is_rejected_with_the_fix(schema: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        require_bounded_schema(json.dumps(schema))


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000])
def test_text_that_is_not_json_is_rejected(text: str) -> None:
    with pytest.raises(DataError, match="not a valid JSON Schema"):
        require_bounded_schema(text)
