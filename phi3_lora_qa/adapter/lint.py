"""The linter: run every rule over one adapter folder, and say what was found.

An adapter is accepted when no rule found an error, and every rule could do its work.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.finding import (
    Finding,
    Need,
    Rule,
    Severity,
    all_rules,
    families,
    find_rule,
)
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.errors import (
    BaseModelError,
    IncompatibleLibraryError,
    MissingDependencyError,
    escape,
    shortage,
)

__all__ = ["Finding", "LintReport", "Severity", "all_rules", "families", "find_rule", "lint"]

MAX_FINDINGS = 10
"""How many findings one rule may report; the last says how many more there are."""

INTERNAL = "lint-internal-error"
_NOT_THE_ADAPTERS = (BaseModelError, MissingDependencyError, IncompatibleLibraryError)
"""Errors that say nothing of the adapter, and end the run without a verdict."""
_OPTIONAL = ("base", "base weights", "tokenizer", "base's tokenizer", "manifest")


@dataclass(frozen=True, kw_only=True)
class LintReport:
    """What the linter has to say of one adapter.

    Attributes:
        adapter: The folder's path, printable.
        findings: Errors first, each group in the order of the families.
        unchecked: What was not checked, because the base or a file was not there, in words.
        ignored: The ids of the rules that the user left out.
        rules_run: The ids of the rules that ran.
        totals: How many findings each of these had, by id; of more than `MAX_FINDINGS` the last one
            in ``findings`` only counts the others.
    """

    adapter: str
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]
    ignored: tuple[str, ...]
    rules_run: tuple[str, ...]
    totals: Mapping[str, int]

    @property
    def accepted(self) -> bool:
        """Whether nothing found is an error."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    @property
    def verdict(self) -> str:
        """``accepted`` or ``rejected``, as the contract writes it."""
        return "accepted" if self.accepted else "rejected"

    def count(self, severity: Severity) -> int:
        """Return how many findings have this severity."""
        return sum(finding.severity is severity for finding in self.findings)


def lint(
    folder: AdapterFolder, base: BaseFiles | None = None, selection: Selection | None = None
) -> LintReport:
    """Check an adapter without running it.

    Args:
        folder: The adapter. Nothing in it is trusted.
        base: The base's files; without them agreement with the base is left unchecked.
        selection: Which rules count, and how much; all of them as they are by default.

    Raises:
        BaseModelError: A file of the base cannot be read, so that nothing can be compared.
        MachineError: Memory, file handles or the like are short of what the work takes.
    """
    context, selection = LintContext(folder, base), selection or Selection()
    findings: list[Finding] = []
    unchecked: list[str] = []
    ran: list[str] = []
    totals: dict[str, int] = {}
    blocked: list[Rule] = []
    there: dict[Need, bool] = {}
    for rule in filter(selection.takes, all_rules()):
        for need in rule.needs:
            if need not in there:
                there[need] = _has(context, need, findings)
        missing = [need for need in rule.needs if not there[need]]
        if not missing:
            ran.append(rule.id)
            level = selection.severity(rule)
            found, totals[rule.id] = _run(rule, context)
            findings.extend(replace(f, severity=level) if f.rule == rule.id else f for f in found)
        elif missing[0] in _OPTIONAL and missing[0] not in context.errors:
            unchecked.append(f"{rule.title} (needs the {missing[0]})")
        else:
            blocked.append(rule)
    if blocked and all(finding.severity is not Severity.ERROR for finding in findings):
        # A rule that could not work without anybody saying why must not look like a pass.
        findings.append(_internal(f"{blocked[0].id} and {len(blocked) - 1} others could not run"))
    order = list(Severity)
    return LintReport(
        adapter=escape(str(folder.path), limit=1000),
        findings=tuple(sorted(findings, key=lambda f: order.index(f.severity))),
        unchecked=tuple(unchecked),
        ignored=selection.left_out(),
        rules_run=tuple(ran),
        totals=totals,
    )


def _has(context: LintContext, need: Need, findings: list[Finding]) -> bool:
    try:
        return context.has(need)
    except _NOT_THE_ADAPTERS:
        raise
    except Exception as error:  # whatever a stranger's file does is a finding
        _require_machine(error)
        findings.append(_crash(f"reading the {need}", error))
        return False


def _run(rule: Rule, context: LintContext) -> tuple[list[Finding], int]:
    """Return the first findings of a rule, and one that counts the others; and how many it had.

    What is not shown is counted and no more: a stranger's folder decides how many there are.
    """
    hits = rule.check(context)
    kept: list[Finding] = []
    rest, crash = 0, []
    try:
        kept.extend(map(rule.finding, itertools.islice(hits, MAX_FINDINGS)))
        rest = sum(1 for _ in hits)
    except _NOT_THE_ADAPTERS:
        raise
    except Exception as error:  # a crash is a finding, never a pass
        _require_machine(error)
        crash = [_crash(rule.id, error)]
    total = len(kept) + rest
    if rest:
        kept.append(
            Finding(
                rule=rule.id,
                severity=rule.severity,
                where=f"{rest} more places",
                message=f"{rest} more findings of this kind",
                fix=rule.fix,
            )
        )
    return kept + crash, total


def _require_machine(error: Exception) -> None:
    """Let a machine that is short of something not count against the adapter."""
    if short := shortage(error):
        raise short from error


def _crash(what: str, error: Exception) -> Finding:
    return _internal(f"{what} failed with {type(error).__name__}: {error}")


def _internal(message: str) -> Finding:
    return Finding(
        rule=INTERNAL,
        severity=Severity.ERROR,
        where="the linter",
        message=escape(message),
        fix=find_rule(INTERNAL).fix,
    )
