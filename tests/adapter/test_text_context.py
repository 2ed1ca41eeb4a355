"""Tests of the text around an adapter: what is missing or unreadable is empty, or an error."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.text_context import TextContext
from tests.adapter.adapters import Adapter, plain
from tests.adapter.tiny_base import tokenizer_files, write_base


def context_of(adapter: Adapter, folder: Path, base: Path | None = None) -> TextContext:
    opened = AdapterFolder.open(adapter.save(folder))
    return TextContext(opened, BaseFiles.open(base) if base else None)


def test_a_tokenizer_is_read_once_and_compared_with_the_base(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = tokenizer_files()
    context = context_of(adapter, tmp_path / "a", write_base(tmp_path / "base"))
    assert context.tokenizer is context.tokenizer is not None
    assert context.base_tokenizer is not None
    assert context.tokenizer.tokens == context.base_tokenizer.tokens


def test_an_unreadable_template_is_an_error_that_is_kept(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = tokenizer_files() | {"chat_template.jinja": b"\xff"}
    context = context_of(adapter, tmp_path)
    assert context.templates is None
    assert "chat_template.jinja" in context.errors["templates"].what


def test_without_a_base_there_is_none_to_read(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        _ = context_of(plain(), tmp_path).base_templates


def test_the_settings_of_an_unreadable_tokenizer_are_empty(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = tokenizer_files()
    assert context_of(adapter, tmp_path / "a").tokenizer_settings["eos_token"]
    adapter.files["tokenizer_config.json"] = b"{"
    assert context_of(adapter, tmp_path / "b").tokenizer_settings == {}


def test_without_a_template_nothing_is_rendered(tmp_path: Path) -> None:
    results = context_of(plain(), tmp_path).template_results
    assert (results.rendered, results.compared) == ({}, {})
