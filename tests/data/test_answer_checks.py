"""Checks are read strictly: what is not exactly of its kind is refused, with the mend."""

import pickle
from typing import Any

import pytest

from phi3_lora_qa.data.answer_checks import (
    Contains,
    Json,
    JsonSchema,
    MaxWords,
    Refusal,
    Regex,
    checks_json,
    parse_checks,
)
from phi3_lora_qa.errors import DataError

RAW: list[dict[str, Any]] = [
    {"kind": "regex", "pattern": r"^\d+$"},
    {"kind": "contains", "text": "Rome", "absent": True},
    {"kind": "json"},
    {"kind": "json_schema", "schema": {"type": "array", "items": {"$ref": "#/$defs/pattern"},
                                       "$defs": {"pattern": {"type": "string"}}}},
    {"kind": "json_schema", "schema": {"$id": "http://a.bc/d", "$ref": "#here",
                                       "properties": {"$id": {"$anchor": "here"}}}},
    {"kind": "refusal", "expected": False},
    {"kind": "max_words", "words": 4},
]  # fmt: skip


def test_every_kind_is_read_and_written_and_can_be_a_key_and_travel() -> None:
    import json

    checks = parse_checks(RAW, "s")
    assert [type(check) for check in checks] == [
        Regex,
        Contains,
        Json,
        JsonSchema,
        JsonSchema,
        Refusal,
        MaxWords,
    ]
    assert parse_checks(json.loads(checks_json(checks)), "s") == checks
    assert pickle.loads(pickle.dumps(checks)) == checks
    assert len({checks, checks}) == 1


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ("json", "must be a list"),
        ({"kind": "json"}, "must be a list"),
        (["json"], "check 1 must be an object"),
        ([{"kind": "json"}, {}], "check 2 has the kind None; use one of regex"),
        ([{"kind": ["json"]}], "has the kind"),
        ([{"kind": "regexp", "pattern": "a"}], "did you mean 'regex'"),
        ([{"kind": "regex"}], "has no pattern; add it"),
        ([{"kind": "regex", "patern": "a"}], "did you mean 'pattern'"),
        ([{"kind": "json", "x": 1}], "unknown field 'x'; leave it out"),
        ([{"kind": "regex", "pattern": 3}], "'pattern' must be text"),
        ([{"kind": "regex", "pattern": "("}], "write a small one without"),
        ([{"kind": "regex", "pattern": r"(a)\1"}], "write a small one without"),
        ([{"kind": "contains", "text": " "}], "is empty"),
        ([{"kind": "contains", "text": "a", "absent": 1}], "'absent' must be true or false"),
        ([{"kind": "refusal", "expected": "yes"}], "'expected' must be true or false"),
        ([{"kind": "max_words", "words": True}], "'words' must be a whole number"),
        ([{"kind": "max_words", "words": -1}], "is negative"),
        ([{"kind": "json_schema", "schema": "{"}], "no JSON Schema"),
        ([{"kind": "json_schema", "schema": {"type": "text"}}], "no JSON Schema"),
        ([{"kind": "json_schema", "schema": {"items": {"pattern": "(a|a)*b"}}}], "uses pattern"),
        (
            [{"kind": "json_schema", "schema": {"$ref": "http://a.bc/s"}}],
            "nothing is fetched",
        ),
        (
            [
                {
                    "kind": "json_schema",
                    "schema": {"$schema": "http://json-schema.org/draft-07/schema#"},
                }
            ],
            "leave it out",
        ),
        ([{"kind": "json_schema", "schema": {"$ref": "#/$defs/lost"}}], "which is not in it"),
        (
            [{"kind": "json_schema", "schema": {"x": {"y": {"$ref": "#nowhere"}}}}],
            "which is not in it",
        ),
        (
            [{"kind": "json_schema", "schema": {"$defs": {"a": {"$id": "http://a.bc/d"}}}}],
            "an .id of its own",
        ),
        ([{"kind": "json_schema", "schema": {"$ref": "#"}}], "the reference '#', which leads back"),
        (
            [
                {
                    "kind": "json_schema",
                    "schema": {
                        "properties": {"a": {"$ref": "#/$defs/b"}},
                        "$defs": {
                            "b": {"allOf": [{"$ref": "#/$defs/c"}]},
                            "c": {"$ref": "#/$defs/b"},
                        },
                    },
                }
            ],
            "leads back to itself",
        ),
    ],
)
def test_what_is_no_check_is_an_error_that_says_how_to_mend_it(raw: object, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        parse_checks(raw, "s.jsonl:3")
    assert str(caught.value).startswith("s.jsonl:3: ")
