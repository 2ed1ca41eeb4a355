"""Tests of the rule about the format of the folder."""

from pathlib import Path

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rules.foreign_formats import adapter_format
from tests.adapter.adapters import plain


def test_a_folder_of_another_program_is_reported_and_one_of_peft_is_not(tmp_path: Path) -> None:
    context = LintContext(AdapterFolder.open(plain().save(tmp_path / "peft")), None)
    assert list(adapter_format.check(context)) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.gguf").write_bytes(b"GGUF")
    context = LintContext(AdapterFolder.open(tmp_path / "other"), None)
    (found,) = adapter_format.check(context)
    assert found.where == "x.gguf"
    assert "but a GGUF file of llama.cpp: the folder contains x.gguf" in found.message
    assert found.fix
