import json
from typing import Any

import pytest

from phi3_lora_qa.adapter.tokenizer.tokenizer_json import (
    TokenizerFile,
    flags_of,
    next_token_id,
    parse_tokenizer,
)
from phi3_lora_qa.errors import AdapterError
from tests.adapter.tiny_base import added_token

MODEL = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}


def parse(**parts: Any) -> TokenizerFile:
    return parse_tokenizer(json.dumps({"version": "1.0", "model": MODEL} | parts).encode())


def test_tokens_are_the_vocabulary_and_the_added_tokens() -> None:
    found = parse(added_tokens=[added_token(3, "<|end|>")])
    assert found.tokens == {"a": 0, "b": 1, "ab": 2, "<|end|>": 3}
    assert found.added["<|end|>"].token_id == 3
    assert found.added["<|end|>"].special
    assert found.id_mismatches == ()


def test_a_declared_id_that_the_token_does_not_get_is_a_mismatch() -> None:
    found = parse(added_tokens=[added_token(9, "<|end|>"), added_token(1, "b")])
    assert found.id_mismatches == ("<|end|>",)
    assert found.added["<|end|>"].token_id == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model": MODEL}, {"model": MODEL | {"merges": [["a", "b"]], "dropout": 0}}),
        ({"normalizer": None}, {"normalizer": {"type": "Sequence", "normalizers": []}}),
        (
            {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}},
            {
                "pre_tokenizer": {
                    "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                    "split": True, "str_rep": "▁",
                }
            },
        ),
        ({"post_processor": None}, {"post_processor": {"type": "ByteLevel"}}),
    ],
)  # fmt: skip
def test_layouts_that_mean_the_same_have_equal_parts(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert parse(**one).parts == parse(**other).parts


def test_a_post_processor_is_reduced_to_the_ids_around_the_text() -> None:
    single = [{"SpecialToken": {"id": "s", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    part = {"type": "TemplateProcessing", "single": single, "special_tokens": {"s": {"ids": [1]}}}
    assert parse(post_processor=part).parts["post_processor"] == (1, None)


def test_padding_and_truncation_are_listed() -> None:
    assert parse(padding={"pad_id": 0}).length_settings == {"padding": "the longest text"}
    fixed = parse(padding={"strategy": {"Fixed": 256}}, truncation={"max_length": 64})
    assert fixed.length_settings == {"truncation": "64 tokens", "padding": "256 tokens"}
    assert parse(truncation=7).length_settings == {"truncation": "a length of its own"}
    assert parse(padding=None, truncation=None).length_settings == {}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"extra": 1}, "unknown part 'extra'"),
        ({"version": "2.0"}, "unknown version"),
        ({"model": None}, "has no model"),
        ({"model": {"type": "RNN"}}, "model of an unknown type"),
        ({"model": MODEL | {"vocab": {"a": -1}}}, "invalid vocabulary"),
        ({"model": MODEL | {"merges": ["a"]}}, "invalid merges"),
        ({"model": MODEL | {"merges": ["b a"]}}, "merges 'b' and 'a', which are not tokens"),
        ({"model": {"type": "Unigram", "vocab": [["a", "b"]]}}, "invalid scores"),
        ({"added_tokens": [{"content": "x"}]}, "invalid added tokens"),
        ({"post_processor": {"type": "TemplateProcessing"}}, "invalid post_processor"),
    ],
)
def test_an_unreadable_file_is_an_error(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        parse(**parts)


def test_flags_have_the_defaults_of_the_libraries() -> None:
    assert flags_of({}) == (False, False, False, True)
    assert flags_of({"special": True}) == (False, False, False, False)
    assert flags_of({"normalized": True, "special": True, "lstrip": True}) == (
        False,
        True,
        False,
        True,
    )


def test_the_next_id_follows_the_vocabulary_and_the_added_tokens() -> None:
    assert next_token_id({"a": 0, "b": 1}, []) == 2
    assert next_token_id({"a": 0}, [7]) == 8
