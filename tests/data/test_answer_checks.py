"""Checks are read strictly: an invalid check is rejected with the fix."""

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


def test_every_kind_survives_json_and_pickle_and_is_hashable() -> None:
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
        ([{"kind": "json", "x": 1}], "unknown field 'x'; remove it"),
        ([{"kind": "regex", "pattern": 3}], "'pattern' must be a string"),
        ([{"kind": "regex", "pattern": "("}], "write a small one without"),
        ([{"kind": "regex", "pattern": r"(a)\1"}], "write a small one without"),
        ([{"kind": "contains", "text": " "}], "is empty"),
        ([{"kind": "contains", "text": "a", "absent": 1}], "'absent' must be true or false"),
        ([{"kind": "refusal", "expected": "yes"}], "'expected' must be true or false"),
        ([{"kind": "max_words", "words": True}], "'words' must be a whole number"),
        ([{"kind": "max_words", "words": -1}], "is negative"),
        ([{"kind": "json_schema", "schema": {"$ref": "#"}}], "check 1 .json_schema.: .schema. has"),
    ],
)
def test_an_invalid_check_is_rejected_with_the_fix(raw: object, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        parse_checks(raw, "s.jsonl:3")
    assert str(caught.value).startswith("s.jsonl:3: ")
