"""Tests of the linter itself: crashes, missing parts, limits and blocked rules."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from phi3_lora_qa.adapter import lint as engine
from phi3_lora_qa.adapter import lint_context, text_context
from phi3_lora_qa.adapter import rule as rule_module
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import INTERNAL, MAX_FINDINGS, LintReport, lint
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.rule_catalogue import all_rules
from phi3_lora_qa.errors import AdapterError, MachineError, escape
from tests.adapter.adapters import plain, report_on
from tests.adapter.tiny_base import tokenizer_files, write_base


def rules_of(report: LintReport) -> list[str]:
    return [found.rule for found in report.findings]


def test_a_rule_that_crashes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @rule("files-crash", severity=Severity.INFO, title="t", why="w", fix="f")
    def crash(context: LintContext) -> Iterator[Violation]:
        yield Violation("here", "found before the crash")
        raise RuntimeError("boom\n")

    monkeypatch.setattr(engine, "all_rules", lambda: (*all_rules(), crash))

    report = report_on(plain(), tmp_path)
    assert sorted(rules_of(report)) == ["files-crash", INTERNAL]
    assert not report.accepted
    assert "files-crash failed with RuntimeError" in report.findings[0].message


def test_a_rule_that_uses_an_undeclared_part_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @rule("files-undeclared", severity=Severity.INFO, title="t", why="w", fix="f")
    def undeclared(context: LintContext) -> Iterator[Violation]:
        yield from (Violation(name, "x") for name in context.base.modules)

    monkeypatch.setattr(engine, "all_rules", lambda: (*all_rules(), undeclared))

    assert rules_of(report_on(plain(), tmp_path)) == [INTERNAL]


def test_a_crash_while_reading_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(lint_context, "derive_expected_tensors", crash)
    report = report_on(plain(), tmp_path)
    assert set(rules_of(report)) == {INTERNAL}


@pytest.mark.parametrize(
    ("module", "place"),
    [
        (lint_context, "derive_expected_tensors"),
        (lint_context, "parse_keys"),
        (lint_context, "open_safetensors"),
        (text_context, "read_tokenizer"),
    ],
)
def test_a_machine_short_of_memory_is_not_a_finding(
    module: ModuleType, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, place, crash)
    adapter = plain()
    adapter.files = tokenizer_files()
    with pytest.raises(MachineError, match="ran out of memory; free some"):
        report_on(adapter, tmp_path)


def test_rules_that_cannot_run_without_a_stated_reason_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LintContext, "has", lambda self, need: need != "expected tensors")
    report = report_on(plain(), tmp_path)
    assert INTERNAL in rules_of(report)


def test_places_beyond_the_listed_ones_are_counted(tmp_path: Path) -> None:
    adapter = plain()
    adapter.tensors |= {f"junk{n}": adapter.array(adapter.names("B.weight")[0]) for n in range(99)}
    report = report_on(adapter, tmp_path)
    junk = [f for f in report.findings if f.rule == "tensors-key"]
    assert len(junk) == MAX_FINDINGS
    assert report.totals["tensors-key"] == 99
    assert report.unlisted()["tensors-key"] == 99 - MAX_FINDINGS
    assert report.count(Severity.ERROR) == 99


@pytest.mark.parametrize("count", [100, 4000])
def test_a_finding_that_is_not_listed_is_not_escaped(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(text: str, limit: int = 400) -> str:
        calls.append(text)
        return escape(text, limit)

    monkeypatch.setattr(rule_module, "escape", counted)
    adapter = plain()
    adapter.config |= {f"key\u202e{number}": number for number in range(count)}
    adapter.tensors = {f"\u202e{number}": ("F32", (0,), b"") for number in range(count)}
    report = report_on(adapter, tmp_path)
    assert report.totals["config-field-ignored"] >= count - 1
    assert len(calls) <= 3 * MAX_FINDINGS * len(report.rules_run)
    assert len(calls) < 400


def test_a_missing_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(AdapterError):
        lint(AdapterFolder.open(tmp_path / "missing"))


def test_rules_behind_an_error_in_the_config_are_blocked_by_its_file(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["r"] = 0
    report = report_on(adapter, tmp_path)
    blocked = {rule.rule: rule.fix_first for rule in report.blocked}
    assert blocked["values-nan"] == "adapter_config.json"
    assert not any(rule.startswith("values-") for rule in report.rules_run)
    compared = [rule for rule in all_rules() if "parent" in rule.needs]  # left out without one
    reported = (*report.rules_run, *report.unchecked, *report.ignored, *compared)
    assert len(reported) == len(all_rules())


def test_rules_behind_unreadable_weights_are_blocked_by_their_file(tmp_path: Path) -> None:
    folder = plain().save(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    report = lint(AdapterFolder.open(folder))
    blocked = {rule.rule: rule.fix_first for rule in report.blocked}
    assert blocked["values-nan"] == blocked["tensors-key"] == "adapter_model.safetensors"


def test_rules_that_need_an_optional_part_are_unchecked_and_not_blocked(tmp_path: Path) -> None:
    report = report_on(plain(), tmp_path / "a")
    assert report.accepted
    assert report.blocked == ()
    missing = {rule.rule: rule.missing for rule in report.unchecked}
    assert missing["base-sizes"] == ("base",)
    assert missing["tokenizer-vocabulary"] == ("tokenizer", "base", "base's tokenizer")
    based = report_on(plain(), tmp_path / "b", write_base(tmp_path / "base"))
    assert "base-sizes" in based.rules_run
