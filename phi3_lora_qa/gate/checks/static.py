"""Static stage: one check for each family of lint rules. No torch is loaded here."""

from phi3_lora_qa.adapter.folder import MANIFEST
from phi3_lora_qa.adapter.lint import Finding, Severity, families
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, CheckFunction, Held, check_of
from phi3_lora_qa.record import Outcome, to_plain


def checks() -> tuple[Check, ...]:
    """Return one check for each rule family, and one that the linter itself came to an end."""
    of_families = [Check(stage="static", name=name, run=_family(name)) for name in families()]
    return (*of_families, check_of("static", every_rule_could_run))


def every_rule_could_run(bench: Bench) -> Held:
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
        if name == "manifest" and MANIFEST not in bench.folder.entries:
            notes += "; there is no manifest, so nothing was held against one"
        return Held(message=f"no {name} rule was broken{notes}", measured=measured)

    return run
