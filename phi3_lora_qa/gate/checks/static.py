"""Static stage: the base, then one check for each family of lint rules. torch is not imported."""

from collections.abc import Mapping

from phi3_lora_qa.adapter.base_checks.check_base import describe
from phi3_lora_qa.adapter.finding import Severity, family_of
from phi3_lora_qa.adapter.lint_report import LintReport, describe_unchecked
from phi3_lora_qa.adapter.rule_catalogue import all_rules, families
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.dataclass_json import Json, to_plain
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import (
    Check,
    CheckFunction,
    CheckOutcome,
    checks_of,
    errored,
    failed,
    not_run,
    passed,
)


def checks(selection: Selection) -> tuple[Check, ...]:
    """Return the check of the base, one for each rule family, and one that the linter completed.

    A family without a selected rule has no check.
    """
    selected = {rule.family for rule in filter(selection.includes, all_rules())}
    of_families = [
        Check(stage="static", name=name, run=_family_check(name))
        for name in families()
        if name in selected
    ]
    return (*checks_of("static", basemodel), *of_families, *checks_of("static", linter_completed))


def basemodel(session: AdapterSession) -> CheckOutcome:
    """The base itself can be used: a fault of the base is never charged to the adapter."""
    report = session.adapter.base_report
    if report is None:
        return _no_base(session) or passed("not checked: the base is on a server")
    measured: dict[str, Json] = {
        "findings": [to_plain(finding) for finding in report.findings],
        "unseen": [{"roles": list(roles), "turns": list(turns)} for roles, turns in report.unseen],
    }
    if errors := report.errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return errored(f"{describe(errors[0], with_fix=False)}{more}", errors[0].fix, measured)
    left_out = f"; ignored by your settings: {', '.join(report.ignored)}" if report.ignored else ""
    measured["ignored"] = list(report.ignored)
    if not report.findings:
        return passed(f"no findings about the base{left_out}", measured)
    first = report.findings[0]
    more = f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
    return passed(
        f"{first.severity} about the base: {first.rule}: {first.message}{more}{left_out}", measured
    )


def linter_completed(session: AdapterSession) -> CheckOutcome:
    """No rule crashed or was blocked: its findings would be unknown."""
    report = session.adapter.lint_report
    internal = [f for f in report.findings if family_of(f.rule) not in families()]
    if internal:
        findings = {"findings": [to_plain(f) for f in internal]}
        return failed(internal[0].message, internal[0].fix, findings)
    ignored = list(report.ignored)
    measured = {
        "rules": list(report.rules_run),
        "unchecked": [to_plain(rule) for rule in report.unchecked],
        "ignored": ignored,
    }
    if report.blocked:
        return _blocked(report, measured)
    return passed(
        f"{len(report.rules_run)} rules ran"
        + (f"; ignored by your settings: {', '.join(ignored)}" if ignored else "")
        + _not_checked(report),
        measured,
    )


def _family_check(name: str) -> CheckFunction:
    def run(session: AdapterSession) -> CheckOutcome:
        report = session.adapter.lint_report.of_family(name)
        if name == "base" and (lacking := _no_base(session) or _unreadable_base(session)):
            return lacking
        measured: dict[str, Json] = {"findings": [to_plain(f) for f in report.findings]}
        if warnings := report.count(Severity.WARNING):
            measured["warnings"] = warnings
        if errors := report.count(Severity.ERROR):
            first = report.findings[0]
            more = f" (and {errors - 1} more)" if errors > 1 else ""
            message = f"{first.rule}: {first.where}: {first.message}{more}"
            return failed(message, first.fix, measured)
        if report.blocked and not report.rules_run:
            return _blocked(report, measured)
        found, selected = sum(report.totals.values()), len(report.rules_run) + len(report.unchecked)
        return passed(
            f"{len(report.rules_passed)} of {selected} rules passed"
            + (f"; {found} warnings or notes" if found else "")
            + _not_checked(report),
            measured,
        )

    return run


def _no_base(session: AdapterSession) -> CheckOutcome | None:
    """Return the outcome of a check that needs a base; None if the adapter is compared with one."""
    if session.is_compared_with_base:
        return None
    missing = session.job.base_missing
    return not_run(
        f"the adapter was not compared with a base: {missing}"
        if missing
        else "the adapter was not compared with its base: the base's files are not on this machine",
        "pass a base that is on this machine with --phi3-base DIR_OR_ID",
    )


def _unreadable_base(session: AdapterSession) -> CheckOutcome | None:
    report = session.adapter.base_report
    if report is None or report.is_readable:
        return None
    return not_run(
        f"the adapter was not compared with its base: {describe(report.errors[0], with_fix=False)}",
        "fix the base first",
    )


def _blocked(report: LintReport, measured: Mapping[str, Json]) -> CheckOutcome:
    """Return the outcome of a check whose rules were blocked by an earlier error."""
    return not_run(
        f"not checked: {describe_unchecked(report.blocked)}",
        f"fix {report.blocked[0].fix_first} first",
        measured,
    )


def _not_checked(report: LintReport) -> str:
    described = describe_unchecked(report.unchecked, base_option="--phi3-base")
    return f"; not checked: {described}" if report.unchecked else ""
