"""The definition of a lint rule, and the decorator that makes one from a function."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from phi3_lora_qa.adapter.finding import FieldOf, Finding, Severity, Violation, family_of
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.lint_needs import Need
from phi3_lora_qa.errors import escape

CheckFunction = Callable[[LintContext], Iterator[Violation]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule: its id, its documentation, and the function that finds its violations.

    Attributes:
        id: In kebab case; the first word is the family.
        family: The group in which its findings are shown.
        severity: The severity of its findings.
        title: What is true of a good adapter, as a sentence.
        why: What goes wrong if the rule is violated.
        fix: How to fix a violation in general; a violation may give a more specific fix.
        needs: The parts of the `LintContext` without which the rule cannot run.
        check: Yields a `Violation` for each fault.
    """

    id: str
    family: str
    severity: Severity
    title: str
    why: str
    fix: str
    needs: tuple[Need, ...]
    check: CheckFunction

    def finding(self, violation: Violation) -> Finding:
        """Make a finding from a violation. It escapes all texts, so call it only for shown ones."""
        return Finding(
            rule=self.id,
            severity=self.severity,
            where=escape(str(violation.where)) or '""',  # a name from the file may be empty
            message=escape(violation.message),
            fix=escape(violation.fix or self.fix),
            file=violation.where.file if isinstance(violation.where, FieldOf) else "",
        )


def rule(  # noqa: PLR0913 - a rule has this many fields
    id: str,  # noqa: A002 - the word that users see
    *,
    severity: Severity,
    title: str,
    why: str,
    fix: str,
    needs: Iterable[Need] = (),
) -> Callable[[CheckFunction], Rule]:
    """Make the decorated function a `Rule`; the first word of the id is its family.

    Raises:
        ValueError: The id is not in kebab case with at least two words.
    """
    if not re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", id):
        raise ValueError(f"invalid rule id {id!r}; use kebab case, starting with the family")

    def decorate(check: CheckFunction) -> Rule:
        return Rule(
            id=id,
            family=family_of(id),
            severity=severity,
            title=title,
            why=why,
            fix=fix,
            needs=tuple(needs),
            check=check,
        )

    return decorate
