"""Static stage: one check for each family of lint rules. torch is not imported."""

from phi3_lora_qa.adapter.lint import Finding, LintReport, Severity, all_rules, families
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.dataclass_json import to_plain
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import (
    Check,
    CheckFunction,
    CheckOutcome,
    checks_of,
    failed,
    not_run,
    passed,
)


def checks(selection: Selection) -> tuple[Check, ...]:
    """Return one check for each rule family, and one that the linter completed.

    A family without a selected rule has no check.
    """
    selected = {rule.family for rule in filter(selection.takes, all_rules())}
    of_families = [
        Check(stage="static", name=name, run=_family_check(name))
        for name in families()
        if name in selected
    ]
    return (*of_families, *checks_of("static", linter_completed))


def linter_completed(session: AdapterSession) -> CheckOutcome:
    """No rule crashed or was prevented from running; its findings would be unknown."""
    report = session.adapter.lint_report
    internal = [f for f in report.findings if _family_of(f) not in families()]
    if internal:
        measured = {"findings": [to_plain(f) for f in internal]}
        return failed(internal[0].message, internal[0].fix, measured)
    unchecked, ignored = list(report.unchecked), list(report.ignored)
    return passed(
        f"{len(report.rules_run)} rules ran"
        + (f"; ignored by your settings: {', '.join(ignored)}" if ignored else "")
        + (f"; not checked: {'; '.join(unchecked)}" if unchecked else ""),
        {"rules": list(report.rules_run), "unchecked": unchecked, "ignored": ignored},
    )


def _family_of(finding: Finding) -> str:
    return finding.rule.partition("-")[0]


def _count_run(report: LintReport, family: str) -> str:
    """Return how many rules of a family ran; a rule without its input does not run."""
    known = [rule.id for rule in all_rules() if rule.family == family]
    return f"{len(set(known) & set(report.rules_run))} of {len(known)} rules"


def _family_check(name: str) -> CheckFunction:
    def run(session: AdapterSession) -> CheckOutcome:
        report = session.adapter.lint_report
        if name == "base" and not session.is_compared_with_base:
            missing = session.job.base_missing
            return not_run(
                f"the adapter was not compared with a base: {missing}"
                if missing
                else "the adapter was not compared with its base: the base's files are not on this "
                "machine",
                "pass a base that is on this machine with --phi3-base DIR_OR_ID",
            )
        findings = [f for f in report.findings if _family_of(f) == name]
        errors = [f for f in findings if f.severity is Severity.ERROR]
        measured = {"findings": [to_plain(f) for f in findings]}
        if errors:
            first = errors[0]
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            message = f"{first.rule}: {first.where}: {first.message}{more}"
            return failed(message, first.fix, measured)
        notes = f"; {len(findings)} findings are not errors" if findings else ""
        return passed(f"{_count_run(report, name)} ran and found no error{notes}", measured)

    return run
