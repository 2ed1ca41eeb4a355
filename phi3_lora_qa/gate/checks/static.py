"""Static stage: one check for each family of lint rules. No torch is loaded here."""

from collections.abc import Mapping

from phi3_lora_qa.adapter.finding import Finding, Severity
from phi3_lora_qa.adapter.lint_report import LintReport, describe_unchecked
from phi3_lora_qa.adapter.rule_catalogue import all_rules, families
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, CheckFunction, Held, check_of
from phi3_lora_qa.record import Json, Outcome, to_plain


def checks(selection: Selection) -> tuple[Check, ...]:
    """Return one check for each rule family, and one that the linter itself came to an end.

    A family of which the user wants no rule has no check that could hold.
    """
    taken = {rule.family for rule in filter(selection.includes, all_rules())}
    of_families = [
        Check(stage="static", name=name, run=_family(name)) for name in families() if name in taken
    ]
    return (*of_families, check_of("static", linter_completed))


def linter_completed(bench: Bench) -> Held:
    """No rule crashed or was kept from its work; what it would have found is then unknown."""
    internal = [f for f in bench.lint.findings if _family_of(f) not in families()]
    if internal:
        raise CheckFailedError(
            internal[0].message, internal[0].fix, {"findings": [to_plain(f) for f in internal]}
        )
    unchecked, ignored = bench.lint.unchecked, list(bench.lint.ignored)
    measured = {
        "rules": list(bench.lint.rules_run),
        "unchecked": [to_plain(rule) for rule in unchecked],
        "ignored": ignored,
    }
    if bench.lint.blocked:
        raise _not_run(bench.lint, measured)
    return Held(
        message=f"{len(bench.lint.rules_run)} rules ran"
        + (f"; ignored by your settings: {', '.join(ignored)}" if ignored else "")
        + _not_checked(bench.lint),
        measured=measured,
    )


def _family_of(finding: Finding) -> str:
    return finding.rule.partition("-")[0]


def _family(name: str) -> CheckFunction:
    def run(bench: Bench) -> Held:
        report = bench.lint.of_family(name)
        if name == "base" and not bench.base_is_checked:
            raise CheckFailedError(
                f"the adapter was not held against a base: {bench.target.base_missing}"
                if bench.target.base_missing
                else "the base's files are not on this machine, so nothing was held against them",
                "give a base that is here with --phi3-base DIR_OR_ID",
                outcome=Outcome.NOT_RUN,
            )
        measured = {"findings": [to_plain(f) for f in report.findings]}
        if errors := report.count(Severity.ERROR):
            first = report.findings[0]
            more = f" (and {errors - 1} more)" if errors > 1 else ""
            raise CheckFailedError(
                f"{first.rule}: {first.where}: {first.message}{more}", first.fix, measured
            )
        if report.blocked and not report.rules_run:
            raise _not_run(report, measured)
        found, selected = sum(report.totals.values()), len(report.rules_run) + len(report.unchecked)
        return Held(
            message=f"{len(report.rules_passed)} of {selected} rules passed"
            + (f"; {found} warnings or notes" if found else "")
            + _not_checked(report),
            measured=measured,
        )

    return run


def _not_run(report: LintReport, measured: Mapping[str, Json]) -> CheckFailedError:
    """Return the outcome of a check whose rules were blocked by an earlier error."""
    return CheckFailedError(
        f"not checked: {describe_unchecked(report.blocked)}",
        f"fix {report.blocked[0].fix_first} first",
        measured,
        outcome=Outcome.NOT_RUN,
    )


def _not_checked(report: LintReport) -> str:
    described = describe_unchecked(report.unchecked, base_option="--phi3-base")
    return f"; not checked: {described}" if report.unchecked else ""
