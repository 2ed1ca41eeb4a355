"""Checks a base: runs every rule of family basemodel, and says which turns its template drops."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from phi3_lora_qa.adapter.base_checks.base_catalogue import FAMILY, base_rules
from phi3_lora_qa.adapter.base_checks.base_rule import BaseRule, BaseUse
from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.base_checks.file_rules import files_are_own
from phi3_lora_qa.adapter.base_checks.template_rules import (
    every_turn_is_shown,
    no_shape_is_refused,
    template_works,
)
from phi3_lora_qa.adapter.base_checks.unseen_turns import Roles
from phi3_lora_qa.adapter.chat_template.template_files import read_templates
from phi3_lora_qa.adapter.finding import Finding, Severity, Violation
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.errors import AdapterError, BaseModelError

_MOST = 10
"""The most findings of one rule."""
_FILES = "the base's files"


@dataclass(frozen=True, kw_only=True)
class BaseReport:
    """The result of checking a base.

    Attributes:
        findings: Errors first, each severity in the order of the rules.
        unseen: For each prompt of which the template leaves turns out, its roles and the positions
            of these turns.
        affected: How many items of the suite the model sees incompletely or not at all.
        ignored: The ids of the rules that the user's selection leaves out.
        is_readable: Whether an adapter can be compared with the base's files.
    """

    findings: tuple[Finding, ...] = ()
    unseen: tuple[tuple[Roles, tuple[int, ...]], ...] = ()
    affected: int = 0
    ignored: tuple[str, ...] = ()
    is_readable: bool = True

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings because of which the base cannot be used."""
        return tuple(f for f in self.findings if f.severity is Severity.ERROR)

    def require_usable(self) -> None:
        """Raise BaseModelError if the base cannot be used."""
        if self.errors:
            raise BaseModelError(describe(self.errors[0]))


def describe(finding: Finding, *, with_fix: bool = True) -> str:
    """Return a finding because of which the base cannot be used as the text of an error."""
    fix = f"; {finding.fix}" if with_fix else ""
    return f"the base cannot be used ({finding.rule}): {finding.where}: {finding.message}{fix}"


def use_of_template(base: BaseView, adapter: AdapterFolder) -> frozenset[BaseUse]:
    """Return `BaseUse.TEMPLATE` if an adapter's chat template must be compared with the base's.

    Args:
        base: The base.
        adapter: The adapter's folder.
    """
    try:
        ours, theirs = read_templates(adapter).default, base.template
    except (AdapterError, BaseModelError):
        return frozenset()  # the rules on these files say why
    is_compared = ours is not None and theirs is not None and ours.text != theirs.text
    return frozenset({BaseUse.TEMPLATE} if is_compared else ())


def check_base(
    base: BaseView, selection: Selection | None = None, uses: Collection[BaseUse] = ()
) -> BaseReport:
    """Run every rule on a base.

    Args:
        base: The base, and the prompts of the suite.
        selection: Which rules run, and at which severity; by default all, at their own severity.
        uses: What the run does with the base. A violation that makes it impossible is an error.

    Raises:
        BaseModelError: A file of the base cannot be read.
        MachineError: The machine ran out of memory, file handles or the like.
    """
    chosen = selection or Selection()
    findings: list[Finding] = []
    required = {rule for rule in base_rules() if rule.severity is Severity.ERROR}
    ignored = tuple(
        rule.id for rule in base_rules() if rule not in required and not chosen.includes(rule)
    )
    for rule in base_rules():
        if rule.id in ignored:
            continue
        severity = _severity(rule, chosen, uses)
        found = list(_findings(rule, base, severity))
        findings += found
        if found and rule in required:  # nothing else can be read
            return BaseReport(findings=tuple(findings), ignored=ignored, is_readable=False)
    order = list(Severity)
    drops = (base.trial.unseen or {}) if chosen.includes(every_turn_is_shown) else {}
    refuses = (base.trial.refusals or {}) if chosen.includes(no_shape_is_refused) else {}
    return BaseReport(
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.severity))),
        unseen=tuple(sorted(drops.items())),
        ignored=ignored,
        is_readable=BaseUse.TEMPLATE not in uses or not _has_error(findings, template_works),
        affected=sum(n for roles, n in base.shapes.items() if roles in drops or roles in refuses),
    )


def unreadable(error: BaseModelError) -> BaseReport:
    """Return the report on a base of which a file cannot be read, as `check_base` says."""
    finding = files_are_own.finding(Violation(_FILES, str(error)))
    return BaseReport(findings=(finding,), is_readable=False)


def _has_error(findings: Sequence[Finding], rule: BaseRule) -> bool:
    return any(f.rule == rule.id and f.severity is Severity.ERROR for f in findings)


def _severity(rule: BaseRule, selection: Selection, uses: Collection[BaseUse]) -> Severity:
    """Return the severity of a rule's findings; levels for ALL rules are meant for adapters."""
    if rule.severity is Severity.ERROR:
        return Severity.ERROR
    levels = [selection.levels[name] for name in (rule.id, FAMILY) if name in selection.levels]
    own = rule.severity if rule.blocks.isdisjoint(uses) else Severity.ERROR
    return levels[0] if levels else own


def _findings(rule: BaseRule, base: BaseView, severity: Severity) -> Iterator[Finding]:
    for violation in islice(rule.check(base), _MOST):
        yield replace(rule.finding(violation), severity=severity)
