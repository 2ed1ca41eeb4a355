"""The warnings of the static checks are counted, and the one about what was trained is named."""

from phi3_lora_qa.record import CheckResult, Outcome
from phi3_lora_qa.record_warnings import count_warnings, describe_warnings


def check(stage: str = "static", warnings: object = None, *rules: str) -> CheckResult:
    findings = [{"rule": rule, "severity": "warning", "message": f"about {rule}"} for rule in rules]
    note = {"rule": "files-subfolders", "severity": "info", "message": "a note"}
    measured = {"findings": [note, *findings]} | ({"warnings": warnings} if warnings else {})
    return CheckResult(
        id=f"phi3::{stage}::x", stage=stage, outcome=Outcome.PASSED, message="",
        measured=measured,
    )  # fmt: skip


def test_without_warnings_nothing_is_said() -> None:
    assert describe_warnings([check(), check("math", 3, "values-x")]) == ""


def test_a_single_warning_is_named_with_its_message() -> None:
    assert describe_warnings([check("static", 1, "files-code")]) == (
        "with 1 warning: files-code: about files-code"
    )


def test_of_several_warnings_the_one_about_the_weights_is_named_first() -> None:
    checks = [check("static", 12, "files-code"), check("static", 1, "tensors-target-idle")]
    assert count_warnings(checks) == 13
    assert describe_warnings(checks) == (
        "with 13 warnings, first: tensors-target-idle: about tensors-target-idle"
    )


def test_a_record_of_another_form_is_no_error() -> None:
    odd = CheckResult(
        id="x", stage="static", outcome=Outcome.PASSED, message="",
        measured={"warnings": 2, "findings": "none"},
    )  # fmt: skip
    assert describe_warnings([odd]) == "with 2 warnings"
