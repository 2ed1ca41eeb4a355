"""Tests of the rules' input: each part is read once, and a missing one is an error."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.needs import OPTIONAL
from tests.adapter.adapters import Adapter, plain
from tests.adapter.tiny_base import write_base


def context_of(adapter: Adapter, folder: Path, base: Path | None = None) -> LintContext:
    opened = AdapterFolder.open(adapter.save(folder))
    return LintContext(opened, BaseFiles.open(base) if base else None)


def test_the_parts_of_a_plain_adapter(tmp_path: Path) -> None:
    context = context_of(plain(), tmp_path / "a")
    assert all(context.has(need) for need in ("config", "weights", "expected tensors"))
    assert not any(context.has(need) for need in OPTIONAL)
    with pytest.raises(LookupError):
        _ = context.base
    based = context_of(plain(), tmp_path / "b", write_base(tmp_path / "base"))
    assert all(based.has(need) for need in ("base", "base weights", "base's tokenizer"))


def test_an_unreadable_part_leaves_its_error_with_a_fix(tmp_path: Path) -> None:
    context = context_of(plain(), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    context = LintContext(AdapterFolder.open(tmp_path), None)
    assert not context.has("weights")
    error = context.errors["weights"]
    assert "empty" in error.what
    assert error.fix
    assert str(error) == f"{error.what}; {error.fix}"
