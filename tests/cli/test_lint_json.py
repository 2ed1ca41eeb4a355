"""Tests of the JSON report."""

import json
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.rule_catalogue import all_rules
from phi3_lora_qa.models.paths import bundled
from tests.adapter.adapters import plain
from tests.adapter.base_variants import GENERATION, copy_base, edit_json
from tests.adapter.faults import spoil
from tests.cli.builders import lint, run, with_programs

RULES = [rule for rule in all_rules() if "parent" not in rule.needs]
"""The rules that apply without a parent; the others are left out then."""


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return spoil(plain(), "nan", 0.5).save(tmp_path / "bad")


def test_json_follows_its_contract(bad: Path) -> None:
    result = run("lint", bad, "--format", "json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert set(content) == {
        "schema_version", "adapter", "verdict", "findings", "totals", "unchecked", "summary",
    }  # fmt: skip
    assert content["schema_version"] == 1
    assert content["adapter"] == str(bad)
    assert content["verdict"] == "rejected"
    (finding,) = content["findings"]
    assert set(finding) == {"rule", "severity", "where", "message", "fix"}
    assert (finding["rule"], finding["severity"]) == ("values-nan", "error")
    assert content["summary"]["errors"] == 1
    assert any("needs the base" in text for text in content["summary"]["unchecked"])


def test_counts_are_of_places_and_not_of_listed_findings(tmp_path: Path) -> None:
    content = json.loads(
        lint(with_programs(40), tmp_path, "--format", "json", "--level", "files-code=error")
    )
    assert content["totals"] == {"files-code": 40}
    assert content["summary"]["errors"] == 40
    assert len(content["findings"]) == content["summary"]["findings_listed"] == 10
    assert {finding["rule"] for finding in content["findings"]} == {"files-code"}


def test_unchecked_rules_are_listed_with_what_they_lack(tmp_path: Path) -> None:
    content = json.loads(lint(plain(), tmp_path, "--format", "json"))
    unchecked = {entry["rule"]: entry for entry in content["unchecked"]}
    assert unchecked["base-sizes"] == {"rule": "base-sizes", "missing": ["base"], "fix_first": ""}
    assert len(content["unchecked"]) == len(content["summary"]["unchecked"])
    assert content["summary"]["rules_run"] + len(unchecked) == len(RULES)


def test_rules_behind_an_error_are_listed_with_the_file_to_fix(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["r"] = 0
    content = json.loads(lint(adapter, tmp_path, "--format", "json"))
    blocked = {e["rule"] for e in content["unchecked"] if e["fix_first"] == "adapter_config.json"}
    assert {rule.id for rule in RULES if rule.family == "values"} <= blocked
    assert any("fix adapter_config.json first" in t for t in content["summary"]["unchecked"])


def test_findings_about_the_base_are_apart_from_those_about_the_adapter(tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, min_length=3)
    adapter = bundled("tiny") / "adapter"
    content = json.loads(run("lint", adapter, "--base", base, "--format", "json").stdout)
    assert (content["verdict"], content["findings"]) == ("accepted", [])
    (found,) = content["base_findings"]
    assert (found["rule"], found["severity"]) == ("basemodel-penalties", "warning")
    text = run("lint", adapter, "--base", base).stdout
    assert "the base model (not the adapter)\n  warning basemodel-penalties" in text
    assert "::warning title=basemodel-penalties at " in (
        run("lint", adapter, "--base", base, "--format", "github").stdout
    )
