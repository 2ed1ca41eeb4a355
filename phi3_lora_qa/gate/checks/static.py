"""Static stage: one check for each family of lint rules. No torch is loaded here."""

from phi3_lora_qa.adapter.lint import Finding, LintReport, Severity, all_rules, families
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.dataclass_json import to_plain
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, CheckFunction, Held, check_of
from phi3_lora_qa.record import Outcome


def checks(selection: Selection) -> tuple[Check, ...]:
    """Return one check for each rule family, and one that the linter itself came to an end.

    A family of which the user wants no rule has no check that could hold.
    """
    taken = {rule.family for rule in filter(selection.takes, all_rules())}
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
    unchecked, ignored = list(bench.lint.unchecked), list(bench.lint.ignored)
    return Held(
        message=f"{len(bench.lint.rules_run)} rules ran"
        + (f"; ignored by your settings: {', '.join(ignored)}" if ignored else "")
        + (f"; not checked: {'; '.join(unchecked)}" if unchecked else ""),
        measured={
            "rules": list(bench.lint.rules_run), "unchecked": unchecked, "ignored": ignored,
        },
    )  # fmt: skip


def _family_of(finding: Finding) -> str:
    return finding.rule.partition("-")[0]


def _ran(report: LintReport, family: str) -> str:
    """How many rules of a family ran: those that lack what they look at have found nothing."""
    known = [rule.id for rule in all_rules() if rule.family == family]
    return f"{len(set(known) & set(report.rules_run))} of {len(known)} rules"


def _family(name: str) -> CheckFunction:
    def run(bench: Bench) -> Held:
        report = bench.lint
        if name == "base" and not bench.base_is_checked:
            raise CheckFailedError(
                f"the adapter was not held against a base: {bench.target.base_missing}"
                if bench.target.base_missing
                else "the base's files are not on this machine, so nothing was held against them",
                "give a base that is here with --phi3-base DIR_OR_ID",
                outcome=Outcome.NOT_RUN,
            )
        findings = [f for f in report.findings if _family_of(f) == name]
        errors = [f for f in findings if f.severity is Severity.ERROR]
        measured = {"findings": [to_plain(f) for f in findings]}
        if errors:
            first = errors[0]
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise CheckFailedError(
                f"{first.rule}: {first.where}: {first.message}{more}", first.fix, measured
            )
        notes = f"; {len(findings)} notes below an error" if findings else ""
        return Held(message=f"{_ran(report, name)} ran, none was broken{notes}", measured=measured)

    return run
