import json
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import (
    Tokenizer,
    is_tiktoken,
    read_object,
    read_tokenizer,
    special_token,
)
from phi3_lora_qa.errors import AdapterError
from tests.adapter.adapters import plain
from tests.adapter.packing import pieces_file
from tests.adapter.tiny_base import WORDS, tokenizer_files


def folder_with(folder: Path, **files: object) -> AdapterFolder:
    adapter = plain()
    for name, content in files.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        adapter.files[name.replace("_json", ".json").replace("_model", ".model")] = data
    return AdapterFolder.open(adapter.save(folder))


def tokenizer_of(folder: AdapterFolder) -> Tokenizer:
    found = read_tokenizer(folder)
    assert found is not None
    return found[0]


def test_settings_add_special_tokens_after_those_of_the_file(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = tokenizer_files(pad="[PAD]")
    found = tokenizer_of(AdapterFolder.open(adapter.save(tmp_path)))
    assert found.special["eos_token"] == "<|end|>"
    assert found.special["bos_token"] is None
    assert found.tokens["[PAD]"] == WORDS + 2
    assert found.added["[PAD]"].special


def test_added_tokens_decoder_replaces_the_older_files(tmp_path: Path) -> None:
    decoder = {"1": {"content": "b", "special": True}}
    files = {
        "tokenizer_json": {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}},
        "special_tokens_map_json": {"eos_token": "a"},
        "added_tokens_json": {"a": 0},
    }
    older = tokenizer_of(folder_with(tmp_path / "a", **files))
    assert older.special["eos_token"] == "a"
    assert older.declared_ids == (("added_tokens.json", "a", 0),)
    newer = tokenizer_of(
        folder_with(
            tmp_path / "b", tokenizer_config_json={"added_tokens_decoder": decoder}, **files
        )
    )
    assert newer.special["eos_token"] is None
    assert newer.added.keys() == {"b"}
    assert ("tokenizer_config.json", "b", 1) in newer.declared_ids


def test_pieces_are_used_only_without_a_tokenizer_json(tmp_path: Path) -> None:
    data = pieces_file([("x", 0.0, 1), ("y", -1.0, 1)])
    found = tokenizer_of(folder_with(tmp_path / "a", tokenizer_model=data))
    assert found.file is None
    assert found.tokens == {"x": 0, "y": 1}
    model = {"model": {"type": "BPE", "vocab": {"a": 0}}}
    both = tokenizer_of(folder_with(tmp_path / "b", tokenizer_model=data, tokenizer_json=model))
    assert both.pieces == ()


def test_a_parsed_file_is_reused(tmp_path: Path) -> None:
    model = {"model": {"type": "BPE", "vocab": {"a": 0}}}
    folder = folder_with(tmp_path, tokenizer_json=model)
    first = read_tokenizer(folder)
    assert first is not None
    assert first[0].file is not None
    second = read_tokenizer(folder, (first[1], first[0].file))
    assert second is not None
    assert second[0].file is first[0].file


def test_without_a_vocabulary_there_is_no_tokenizer(tmp_path: Path) -> None:
    table = b"YQ== 0\n"
    assert is_tiktoken(table)
    assert not is_tiktoken(b"\x0a\x03")
    assert read_tokenizer(folder_with(tmp_path / "a")) is None
    assert read_tokenizer(folder_with(tmp_path / "b", tokenizer_model=table)) is None


def test_a_missing_file_is_an_empty_object(tmp_path: Path) -> None:
    assert read_object(folder_with(tmp_path), "tokenizer_config.json") == {}


def test_a_special_token_is_a_string_or_an_object() -> None:
    assert special_token({"pad_token": "x"}, "pad_token") == "x"
    assert special_token({"pad_token": {"content": "x"}}, "pad_token") == "x"
    assert special_token({"pad_token": None}, "pad_token") is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config_json", {"added_tokens_decoder": [1]}, "added_tokens_decoder"),
        ("tokenizer_config_json", {"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder"),
        ("tokenizer_config_json", {"extra_special_tokens": 3}, "extra_special_tokens"),
        ("tokenizer_config_json", {"eos_token": 3}, "eos_token"),
        ("added_tokens_json", {"a": "0"}, "token id"),
    ],
)
def test_an_invalid_field_is_an_error(
    name: str, content: object, message: str, tmp_path: Path
) -> None:
    adapter = {"tokenizer_json": {"model": {"type": "BPE", "vocab": {"a": 0}}}, name: content}
    with pytest.raises(AdapterError, match=f"has an invalid {message}; save the tokenizer again"):
        read_tokenizer(folder_with(tmp_path, **adapter))
