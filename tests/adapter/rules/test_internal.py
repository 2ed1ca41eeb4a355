"""Tests of family lint: its rule documents the linter's own faults and finds nothing itself."""

from pathlib import Path

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import INTERNAL
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule_catalogue import families
from phi3_lora_qa.adapter.rules.internal import internal_error
from tests.adapter.adapters import plain


def test_the_internal_rule_yields_nothing(tmp_path: Path) -> None:
    context = LintContext(AdapterFolder.open(plain().save(tmp_path)), None)
    assert internal_error.id == INTERNAL
    assert list(internal_error.check(context)) == []
    assert internal_error.family not in families()
