"""The result of linting one adapter: findings, what was not checked, and a summary."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from phi3_lora_qa.adapter.finding import Finding, Severity, family_of
from phi3_lora_qa.adapter.needs import LIBRARIES, Need
from phi3_lora_qa.extras import pip_command


@dataclass(frozen=True, kw_only=True)
class UncheckedRule:
    """A rule that did not run.

    Attributes:
        rule: The rule's id.
        missing: The parts that it needs and that are missing.
        fix_first: The file, or the rule whose finding must be fixed before the rule can run; empty
            if nothing is wrong and the missing part is optional (no base was passed, the folder
            has no tokenizer, …).
    """

    rule: str
    missing: tuple[Need | Literal["tokenizer libraries"], ...]
    fix_first: str = ""


@dataclass(frozen=True, kw_only=True)
class LintReport:
    """The result of linting one adapter.

    Attributes:
        adapter: The folder's path, printable.
        findings: Errors first, each severity in the order of the rules; at most `MAX_FINDINGS` of
            one rule.
        totals: For each rule that found something, the number of places that it found, including
            those that are not listed in ``findings``.
        rules_run: The ids of the rules that ran.
        unchecked: The rules that did not run because something was missing, in rule order.
        ignored: The ids of the rules that the user's selection leaves out.
        base_findings: What is wrong with the base itself, and not with the adapter.

    Example:
        >>> report = LintReport(
        ...     adapter="my-adapter", findings=(), totals={}, rules_run=("values-nan",),
        ...     unchecked=(UncheckedRule(rule="base-sizes", missing=("base",)),), ignored=(),
        ... )
        >>> report.accepted, report.summary
        (True, 'no findings; 1 of 2 rules ran')
    """

    adapter: str
    findings: tuple[Finding, ...]
    totals: Mapping[str, int]
    rules_run: tuple[str, ...]
    unchecked: tuple[UncheckedRule, ...]
    ignored: tuple[str, ...]
    base_findings: tuple[Finding, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    @property
    def verdict(self) -> str:
        """``accepted`` or ``rejected``."""
        return "accepted" if self.accepted else "rejected"

    @property
    def blocked(self) -> tuple[UncheckedRule, ...]:
        """The rules that could not run because something that they need could not be read."""
        return tuple(rule for rule in self.unchecked if rule.fix_first)

    @property
    def rules_passed(self) -> tuple[str, ...]:
        """The ids of the rules that ran and found nothing."""
        return tuple(rule for rule in self.rules_run if rule not in self.totals)

    def of_family(self, family: str) -> "LintReport":
        """Return the part of the report that is about the rules of one family.

        Args:
            family: The family's name, such as ``values``.

        Returns:
            A report on the rules of the family only.
        """

        def belongs(rule: str) -> bool:
            return family_of(rule) == family

        return replace(
            self,
            findings=tuple(finding for finding in self.findings if belongs(finding.rule)),
            totals={rule: total for rule, total in self.totals.items() if belongs(rule)},
            rules_run=tuple(filter(belongs, self.rules_run)),
            unchecked=tuple(rule for rule in self.unchecked if belongs(rule.rule)),
            ignored=tuple(filter(belongs, self.ignored)),
        )

    def count(self, severity: Severity) -> int:
        """Return the number of places at which rules of this severity found something.

        Args:
            severity: The severity of the findings to count.

        Returns:
            The number of places, including those that are not listed in ``findings``.
        """
        rules = {finding.rule for finding in self.findings if finding.severity is severity}
        return sum(self.totals[rule] for rule in rules)

    def unlisted(self) -> dict[str, int]:
        """Return the number of places that are not listed in ``findings``, by the rule's id.

        Returns:
            The numbers of the rules that have such places.
        """
        listed = Counter(finding.rule for finding in self.findings)
        return {
            rule: total - listed[rule]
            for rule, total in self.totals.items()
            if total > listed[rule]
        }

    @property
    def summary(self) -> str:
        """The counts in one line, such as ``2 errors, 1 warning; 60 of 110 rules ran``."""
        counts = [
            f"{count} {severity}{'' if count == 1 else 's'}"
            for severity in Severity
            if (count := self.count(severity))
        ]
        ran = f"{len(self.rules_run)} of {len(self.rules_run) + len(self.unchecked)} rules ran"
        return f"{', '.join(counts) or 'no findings'}; {ran}"


def describe_unchecked(unchecked: Iterable[UncheckedRule], *, base_option: str = "--base") -> str:
    """Say in one line how many rules did not run, why, and how to make them run.

    Args:
        unchecked: The rules that did not run; at least one.
        base_option: The option with which the user passes a base.
    """
    rules = list(unchecked)
    parts: list[tuple[int, str]] = []
    for file in dict.fromkeys(rule.fix_first for rule in rules if rule.fix_first):
        blocked = [rule for rule in rules if rule.fix_first == file]
        families = Counter(family_of(rule.rule) for rule in blocked)
        names = ", ".join(f"{count} {family}" for family, count in families.items())
        kinds = f" ({names})" if len(families) > 1 else ""
        parts.append((len(blocked), f"blocked until {file} is fixed{kinds}"))
    lacking = Counter(rule.missing[0] for rule in rules if not rule.fix_first)
    for part, count in lacking.most_common():
        how = f" (pass {base_option} DIR_OR_ID)" if part == "base" else ""
        how = f" ({pip_command('tokenizer')})" if part == LIBRARIES else how
        parts.append((count, f"need{'s' * (count == 1)} the {part}{how}"))
    all_rules = f"{len(rules)} rule{'s' * (len(rules) != 1)}"
    if len(parts) == 1:
        return f"{all_rules} {parts[0][1]}"
    return f"{all_rules}: " + ", ".join(f"{count} {text}" for count, text in parts)
