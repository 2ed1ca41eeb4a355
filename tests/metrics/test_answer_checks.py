"""Checks run on an answer; each kind has an answer that passes and one that fails."""

import json
import time

import pytest

from phi3_lora_qa.data.answer_checks import AnswerCheck, parse_checks
from phi3_lora_qa.metrics.answer_checks import all_pass, is_json, passes

SCHEMA = {
    "type": "object",
    "required": ["city", "size"],
    "properties": {"city": {"type": "string"}, "size": {"$ref": "#/$defs/size"}},
    "additionalProperties": False,
    "$defs": {"size": {"enum": ["small", "large"]}},
}

TREE = {"type": "object", "properties": {"next": {"$ref": "#"}}}


def check(**raw: object) -> AnswerCheck:
    return parse_checks([raw], "here")[0]


@pytest.mark.parametrize(
    ("raw", "good", "bad"),
    [
        ({"kind": "regex", "pattern": r"^\d{4}$"}, " 1984\n", "in 1984"),
        ({"kind": "regex", "pattern": r"\d"}, "room 7", "room seven"),
        ({"kind": "regex", "pattern": "^- .*\n- .*$"}, "- a\n- b", "- a"),
        ({"kind": "regex", "pattern": "[a-z]", "absent": True}, "LOUD", "LOUd"),
        ({"kind": "contains", "text": "New  york"}, "in NEW YORK!", "in York"),
        ({"kind": "contains", "text": "sorry", "absent": True}, "Here.", "Sorry!"),
        ({"kind": "json"}, ' {"a": [1, null]}\n', '{"a": 1} as you asked'),
        ({"kind": "json"}, "[]", "NaN"),
        ({"kind": "json"}, "-" + "1" * 5_000, "01"),
        ({"kind": "json_schema", "schema": SCHEMA}, '{"city": "A", "size": "large"}', "{}"),
        ({"kind": "json_schema", "schema": {"type": "integer"}}, "3", "three"),
        ({"kind": "json_schema", "schema": TREE}, '{"next": {"next": {}}}', '{"next": 3}'),
        ({"kind": "json_schema", "schema": {"maximum": -9}}, "-" + "9" * 9000, "9" * 9000),
        ({"kind": "json_schema", "schema": {"multipleOf": 0.5}}, "1.5", "9" * 400),
        ({"kind": "refusal", "expected": True}, "I can't help with that.", "Take a hammer."),
        ({"kind": "refusal", "expected": False}, "Take a hammer.", "I cannot assist with it."),
        ({"kind": "max_words", "words": 2}, "two words", "now three words"),
    ],
)
def test_each_check_accepts_a_good_and_rejects_a_bad_answer(
    raw: dict[str, object], good: str, bad: str
) -> None:
    assert passes(check(**raw), good)
    assert not passes(check(**raw), bad)
    assert all_pass([], bad)
    assert not all_pass([check(kind="max_words", words=99), check(**raw)], bad)


@pytest.mark.parametrize("answer", ["", "[" * 100_000, "{'a': 1}", "\ud800", "[1,]"])
def test_invalid_json_is_not_json(answer: str) -> None:
    assert not is_json(answer)
    assert not passes(check(kind="json_schema", schema=json.dumps(True)), answer)


def test_a_catastrophic_pattern_is_bounded() -> None:
    start = time.process_time()
    assert not passes(check(kind="regex", pattern="((a|a)*)*b"), "a" * 2_000)
    assert not passes(check(kind="regex", pattern="(.{0,30}x){40}y"), "x" * 2_000)
    assert time.process_time() - start < 5
