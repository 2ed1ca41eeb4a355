"""Tests of reading a base's added tokens without its vocabulary."""

import json
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base_checks.added_tokens import quick_added_tokens
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import read_tokenizer
from tests.adapter.base_variants import TINY, copy_base, edit_json
from tests.adapter.tiny_base import write_base


@pytest.mark.parametrize("layout", ["tiny", "compact", "indented"])
def test_they_are_those_of_the_whole_tokenizer(layout: str, tmp_path: Path) -> None:
    base = TINY if layout == "tiny" else write_base(tmp_path)
    if layout == "indented":
        content = json.loads((base / "tokenizer.json").read_text())
        (base / "tokenizer.json").write_text(json.dumps(content, indent=2))
    files = BaseFiles.open(base)
    whole = read_tokenizer(files)
    assert whole is not None
    assert quick_added_tokens(files) == {t: one.token_id for t, one in whole[0].added.items()}


def test_tokens_that_only_the_settings_name_are_added(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    decoder = {"760": {"content": "<|new|>", "special": True}, "x": {}, "761": "no object"}
    edit_json(base, "tokenizer_config.json", added_tokens_decoder=decoder)
    found = quick_added_tokens(BaseFiles.open(base))
    assert found is not None
    assert found["<|new|>"] == 760


def test_a_special_token_of_the_vocabulary_needs_the_whole_tokenizer(tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), "tokenizer_config.json", eos_token="the")
    assert quick_added_tokens(BaseFiles.open(base)) is None


@pytest.mark.parametrize("text", ['{"added_tokens": [{"id": 3', "{}"])
def test_a_file_that_cannot_be_read_quickly_is_left_to_its_reader(
    text: str, tmp_path: Path
) -> None:
    base = copy_base(tmp_path / "base")
    (base / "tokenizer.json").write_text(text)
    assert quick_added_tokens(BaseFiles.open(base)) is None
