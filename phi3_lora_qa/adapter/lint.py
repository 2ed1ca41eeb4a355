"""The linter: runs every rule on one adapter folder and collects the findings.

An adapter is accepted if no rule found an error and every rule that applies could run.
"""

import itertools
from dataclasses import replace

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.finding import FieldOf, Finding, Severity, Violation
from phi3_lora_qa.adapter.folder import CONFIG, MANIFEST, WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.lint_report import LintReport, UncheckedRule
from phi3_lora_qa.adapter.needs import IDENTITY, LIBRARIES, OPTIONAL, Need
from phi3_lora_qa.adapter.parent_adapter import StoredAdapter
from phi3_lora_qa.adapter.rule import Rule
from phi3_lora_qa.adapter.rule_catalogue import all_rules, find_rule
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.adapter.rules.folder_files import WRONG_KIND
from phi3_lora_qa.errors import (
    BaseModelError,
    IncompatibleLibraryError,
    MissingDependencyError,
    escape,
    shortage,
)

__all__ = ["INTERNAL", "MAX_FINDINGS", "Finding", "LintReport", "Severity", "lint"]

MAX_FINDINGS = 10
"""The most findings of one rule that a report lists; the others are only counted."""

INTERNAL = "lint-internal-error"
_NOT_ABOUT_THE_ADAPTER = (BaseModelError, IncompatibleLibraryError)
"""Errors that say nothing about the adapter. They end the run without a verdict."""


def lint(
    folder: AdapterFolder,
    base: BaseFiles | None = None,
    selection: Selection | None = None,
    *,
    any_base: bool = False,
    parent: StoredAdapter | None = None,
) -> LintReport:
    """Check an adapter without running it.

    Args:
        folder: The adapter. Nothing in it is trusted.
        base: The files of the base model. Without them, rules that need a base do not run.
        selection: Which rules run, and at which severity; by default all, at their own severity.
        any_base: Whether the adapter may be for a base of the table other than a Phi-3.
        parent: The adapter that this one was trained from. Without it, the rules that compare the
            two are left out.

    Returns:
        The report. A crash of a rule is a finding in it.

    Raises:
        BaseModelError: A file of the base cannot be read.
        MissingDependencyError: No rule found an error, and one needs a package that is not
            installed.
        MachineError: The machine ran out of memory, file handles or the like.
    """
    context = LintContext(folder, base, any_base=any_base, parent=parent)
    return _Run(context, selection or Selection()).report()


class _Run:
    """One run of the linter over one adapter."""

    def __init__(self, context: LintContext, selection: Selection) -> None:
        self.folder = context.folder
        self.selection = selection
        self.context = context
        self.has: dict[Need, bool] = {}
        self.findings: list[Finding] = []
        self.totals: dict[str, int] = {}
        self.rules_run: list[str] = []
        self.unchecked: list[UncheckedRule] = []
        self.lacking: MissingDependencyError | None = None
        self.foreign: frozenset[str] = frozenset()

    def report(self) -> LintReport:
        wrong_kind = find_rule(WRONG_KIND)
        is_error = self.selection.severity(wrong_kind) is Severity.ERROR
        if is_error and self.selection.includes(wrong_kind):
            self.foreign = frozenset(self.context.foreign_files)
        for rule in filter(self.selection.includes, all_rules()):
            if "parent" in rule.needs and not self._has("parent"):
                continue  # nobody asked for the comparison, so it is not missing
            missing = tuple([need for need in rule.needs if not self._has(need)])
            if missing:
                self.unchecked.append(
                    UncheckedRule(
                        rule=rule.id, missing=missing, fix_first=self._blocker(missing[0])
                    )
                )
            else:
                self.rules_run.append(rule.id)
                self._check(rule)
        blocked = [rule for rule in self.unchecked if rule.fix_first]
        if blocked and all(f.severity is not Severity.ERROR for f in self.findings):
            # A rule that could not run, with no error that says why, must not look like a pass.
            others = f" and {len(blocked) - 1} other rules" if len(blocked) > 1 else ""
            self.findings.append(_internal_error(f"{blocked[0].rule}{others} could not run"))
        if self.lacking and all(f.severity is not Severity.ERROR for f in self.findings):
            count = sum(LIBRARIES in rule.missing for rule in self.unchecked)
            raise MissingDependencyError(
                f"there is no verdict: {count} rule{'s' * (count != 1)} on the adapter's own "
                f"tokenizer could not run, since {self.lacking}"
            )
        if internal := sum(finding.rule == INTERNAL for finding in self.findings):
            self.totals[INTERNAL] = internal
        order = list(Severity)
        return LintReport(
            adapter=escape(str(self.folder.path), limit=1000),
            findings=tuple(sorted(self.findings, key=lambda f: order.index(f.severity))),
            totals=self.totals,
            rules_run=tuple(self.rules_run),
            unchecked=tuple(self.unchecked),
            ignored=self.selection.excluded(),
        )

    def _has(self, need: Need) -> bool:
        if need not in self.has:
            try:
                self.has[need] = self.context.has(need)
            except (*_NOT_ABOUT_THE_ADAPTER, MissingDependencyError):
                raise
            except Exception as error:  # any error that an untrusted file causes is a finding
                self._record_crash(f"reading the {need}", error)
                self.has[need] = False
        return self.has[need]

    def _blocker(self, need: Need) -> str:
        """Return the file or the finding to fix before a rule can run; empty if it is optional."""
        if need in IDENTITY:
            has_format = self._has("LoRA adapter of PEFT")
            return IDENTITY[need if has_format else "LoRA adapter of PEFT"]
        if need in OPTIONAL and need not in self.context.errors:
            return ""
        match need:
            case "manifest":
                return MANIFEST
            case "weights":
                return WEIGHTS
            case "expected tensors" if self._has("config") and not self._has("weights"):
                return WEIGHTS
            case _:
                return CONFIG

    def _check(self, rule: Rule) -> None:
        """Run a rule. Violations beyond the listed ones are only counted.

        An untrusted folder decides how many there are.
        """
        violations = rule.check(self.context)
        if rule.id != WRONG_KIND:
            violations = (v for v in violations if _file_of(v) not in self.foreign)
        severity = self.selection.severity(rule)
        listed = unlisted = 0
        try:
            for violation in itertools.islice(violations, MAX_FINDINGS):
                self.findings.append(replace(rule.finding(violation), severity=severity))
                listed += 1
            unlisted = sum(1 for _ in violations)
        except _NOT_ABOUT_THE_ADAPTER:
            raise
        except MissingDependencyError as error:
            self.lacking = error
            self.rules_run.remove(rule.id)
            self.unchecked.append(UncheckedRule(rule=rule.id, missing=(LIBRARIES,)))
        except Exception as error:  # a crash is a finding, never a pass
            self._record_crash(rule.id, error)
        if listed:
            self.totals[rule.id] = listed + unlisted

    def _record_crash(self, what: str, error: Exception) -> None:
        if short := shortage(error):  # a shortage says nothing about the adapter
            raise short from error
        message = f"{what} failed with {type(error).__name__}: {error}"
        self.findings.append(_internal_error(message))


def _file_of(violation: Violation) -> str:
    where = violation.where
    return where.file if isinstance(where, FieldOf) else where


def _internal_error(message: str) -> Finding:
    return Finding(
        rule=INTERNAL,
        severity=Severity.ERROR,
        where="the linter",
        message=escape(message),
        fix=find_rule(INTERNAL).fix,
    )
