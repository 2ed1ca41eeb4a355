"""Tests of the selection of rules: selected, ignored, and with other levels."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.finding import Severity
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, lint
from phi3_lora_qa.adapter.rule_catalogue import find_rule
from phi3_lora_qa.adapter.rule_selection import read_selection
from phi3_lora_qa.errors import InputError
from tests.adapter.adapters import plain
from tests.adapter.faults import spoil


def report(folder: Path, *, select: str = "", ignore: str = "", levels: str = "") -> LintReport:
    spoil(plain(), "nan", 0.5).save(folder)
    chosen = read_selection(select.split(), ignore.split(), levels.split())
    return lint(AdapterFolder.open(folder), selection=chosen)


def test_by_default_every_rule_runs(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert {f.rule for f in found.findings} == {"values-nan"}
    assert found.ignored == ()


@pytest.mark.parametrize("name", ["values-nan", "values"])
def test_an_ignored_rule_or_family_does_not_run_and_is_listed(name: str, tmp_path: Path) -> None:
    found = report(tmp_path, ignore=name)
    assert found.accepted
    assert "values-nan" in found.ignored
    assert "values-nan" not in found.rules_run


def test_only_selected_rules_run(tmp_path: Path) -> None:
    assert report(tmp_path, select="files config-value").accepted
    found = report(tmp_path, select="values", ignore="values-inf")
    assert {f.rule for f in found.findings} == {"values-nan"}
    assert {"files-code", "values-inf"} <= set(found.ignored)


@pytest.mark.parametrize(
    ("select", "ignore", "runs"),
    [
        ("values,tensors", "", True),
        ("files , config", "", False),
        ("ALL", "", True),
        ("ALL", "values", False),
        ("", "ALL", False),
        ("values-nan", "values", True),
        ("values-nan", "ALL", True),
        ("values", "values-nan", False),
        ("values", "values", False),
        ("ALL", "tensors,values-nan", False),
    ],
)
def test_the_most_specific_selector_wins_as_in_ruff(select: str, ignore: str, runs: bool) -> None:
    chosen = read_selection([select], [ignore], [])
    assert chosen.includes(find_rule("values-nan")) is runs
    assert chosen.includes(find_rule("lint-internal-error"))


def test_a_level_can_be_set_for_a_family(tmp_path: Path) -> None:
    assert report(tmp_path, levels="values=info").accepted
    assert report(tmp_path, levels="ALL=error,values=warning").accepted
    assert not report(tmp_path, levels="values=info,values-nan=error").accepted


def test_a_level_can_turn_errors_into_warnings_and_back(tmp_path: Path) -> None:
    milder = report(tmp_path, levels="values-nan=warning")
    assert milder.accepted
    assert [f.severity for f in milder.findings] == [Severity.WARNING]
    (tmp_path / "run.py").write_text("")
    assert not report(tmp_path, ignore="values-nan", levels="files-code=error").accepted


def test_internal_errors_of_the_linter_cannot_be_ignored(tmp_path: Path) -> None:
    folder = spoil(plain(), "truncated", 0).save(tmp_path)
    chosen = read_selection([], ["lint", "files"], [])
    found = lint(AdapterFolder.open(folder), selection=chosen)
    assert not found.accepted
    assert {f.rule for f in found.findings} == {"lint-internal-error"}


@pytest.mark.parametrize(
    ("names", "levels", "words"),
    [
        (["values-nann"], [], "values-nan"),
        ([], ["values-nan=loud"], "error, warning, info"),
        ([], ["values-nan"], "RULE=LEVEL"),
        ([], ["no-rule=error"], "unknown rule: 'no-rule'"),
    ],
)
def test_an_unknown_rule_or_level_is_an_error(
    names: list[str], levels: list[str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_selection([], names, levels)
