"""Tests of findings: severities as users write them, from the worst on, and their JSON."""

from dataclasses import asdict

from phi3_lora_qa.adapter.finding import FieldOf, Finding, Severity, Violation, family_of
from phi3_lora_qa.adapter.rule_catalogue import find_rule


def test_severities_are_listed_from_the_worst_to_the_mildest() -> None:
    assert [str(severity) for severity in Severity] == ["error", "warning", "info"]


def test_a_finding_is_plain_data() -> None:
    finding = Finding(rule="r-x", severity=Severity.ERROR, where="w", message="m", fix="f")
    assert asdict(finding) == {
        "rule": "r-x", "severity": "error", "where": "w", "message": "m", "fix": "f",
        "file": "",
    }  # fmt: skip


def test_a_violation_has_the_rules_fix_unless_it_has_its_own() -> None:
    assert Violation("w", "m").fix == ""


def test_a_field_of_a_file_is_a_place_with_its_file() -> None:
    place = FieldOf("adapter_config.json", "r")
    assert str(place) == "adapter_config.json: r"
    found = find_rule("config-value").finding(Violation(place, "m"))
    assert (found.where, found.file) == ("adapter_config.json: r", "adapter_config.json")
    assert find_rule("values-nan").finding(Violation("w", "m")).file == ""


def test_the_family_is_the_first_word_of_the_rules_id() -> None:
    assert family_of("values-nan") == "values"
