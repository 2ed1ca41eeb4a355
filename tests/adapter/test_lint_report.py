"""Tests of the report: counts of places, unchecked rules and the summary."""

from dataclasses import replace

from phi3_lora_qa.adapter.finding import Finding, Severity
from phi3_lora_qa.adapter.lint_report import LintReport, UncheckedRule, describe_unchecked

NAN, CODE = (
    Finding(rule=rule, severity=severity, where="x", message="m", fix="f")
    for rule, severity in (("values-nan", Severity.ERROR), ("files-code", Severity.WARNING))
)
REPORT = LintReport(
    adapter="a",
    findings=(NAN, CODE, CODE),
    totals={"values-nan": 1, "files-code": 12},
    rules_run=("files-code", "values-nan", "values-inf"),
    unchecked=(
        UncheckedRule(rule="base-sizes", missing=("base",)),
        UncheckedRule(rule="values-spike", missing=("expected tensors",), fix_first="c.json"),
    ),
    ignored=("files-settings",),
)


def test_counts_are_of_places() -> None:
    assert REPORT.count(Severity.ERROR) == 1
    assert REPORT.count(Severity.WARNING) == 12
    assert REPORT.unlisted() == {"files-code": 10}
    assert REPORT.summary == "1 error, 12 warnings; 3 of 5 rules ran"


def test_a_report_without_findings_is_accepted() -> None:
    empty = replace(REPORT, findings=(), totals={}, unchecked=())
    assert (empty.accepted, empty.verdict) == (True, "accepted")
    assert empty.summary == "no findings; 3 of 3 rules ran"
    assert (REPORT.accepted, REPORT.verdict) == (False, "rejected")


def test_the_part_of_a_family_has_only_its_rules() -> None:
    values = REPORT.of_family("values")
    assert values.findings == (NAN,)
    assert values.rules_run == ("values-nan", "values-inf")
    assert values.rules_passed == ("values-inf",)
    assert values.blocked == values.unchecked == REPORT.unchecked[1:]


def test_unchecked_rules_are_described_by_what_they_lack() -> None:
    assert describe_unchecked(REPORT.unchecked) == (
        "2 rules: 1 blocked until c.json is fixed, 1 needs the base (pass --base DIR_OR_ID)"
    )
    blocked = UncheckedRule(rule="export-vllm", missing=("config",), fix_first="c.json")
    assert describe_unchecked((*REPORT.blocked, blocked)) == (
        "2 rules blocked until c.json is fixed (1 values, 1 export)"
    )
    assert describe_unchecked(REPORT.unchecked[:1] * 2, base_option="--phi3-base") == (
        "2 rules need the base (pass --phi3-base DIR_OR_ID)"
    )
    assert describe_unchecked(REPORT.unchecked[:1]).startswith("1 rule needs the base ")
