"""The definition of a lint rule, and the decorator that makes one from a function."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from phi3_lora_qa.adapter.finding import FieldOf, Finding, Severity, Violation, family_of
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.needs import IDENTITY, Need
from phi3_lora_qa.errors import escape

_ABOUT_THE_FOLDER = ("files", "manifest", "lint")
"""The families whose rules do not depend on the base that the adapter is for, ..."""

_ABOUT_THE_BASE = frozenset[Need](("base", "base weights", "base's tokenizer", "expected tensors"))
"""... unless they need one of these parts."""

CheckFunction = Callable[[LintContext], Iterator[Violation]]


@dataclass(frozen=True, kw_only=True)
class DocumentedRule:
    """The id and the documentation of a rule, on an adapter or on a base.

    Attributes:
        id: In kebab case; the first word is the family.
        severity: The severity of its findings.
        title: What is true of a good adapter or base, as a sentence.
        why: What goes wrong if the rule is violated.
        fix: How to fix a violation in general; a violation may give a more specific fix.
        needs: The parts of the `LintContext` without which the rule cannot run.
    """

    id: str
    severity: Severity
    title: str
    why: str
    fix: str
    needs: tuple[Need, ...] = ()

    @property
    def family(self) -> str:
        """The group in which its findings are shown: the first word of its id."""
        return family_of(self.id)

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


@dataclass(frozen=True, kw_only=True)
class Rule(DocumentedRule):
    """A rule on an adapter: ``check`` yields a `Violation` for each fault."""

    check: CheckFunction


def rule(  # noqa: PLR0913 - a rule has this many fields
    id: str,  # noqa: A002 - the word that users see
    *,
    severity: Severity,
    title: str,
    why: str,
    fix: str,
    needs: Iterable[Need] = (),
    any_folder: bool = False,
    any_base: bool = False,
) -> Callable[[CheckFunction], Rule]:
    """Make the decorated function a `Rule`; the first word of the id is its family.

    A rule runs only on a LoRA adapter of PEFT, unless ``any_folder`` is set, and only if the
    adapter is for the base of the check. The latter does not apply if ``any_base`` is set, and to
    rules of the families files and manifest that need nothing of the base.

    Raises:
        ValueError: The id is not in kebab case with at least two words.
    """
    require_id(id)

    own = tuple(needs)
    identity: tuple[Need, ...] = () if any_folder else tuple(IDENTITY)
    if any_base or (family_of(id) in _ABOUT_THE_FOLDER and not _ABOUT_THE_BASE & set(own)):
        identity = identity[:1]

    def decorate(check: CheckFunction) -> Rule:
        return Rule(
            id=id,
            severity=severity,
            title=title,
            why=why,
            fix=fix,
            needs=tuple(dict.fromkeys((*identity, *own))),
            check=check,
        )

    return decorate


def require_id(id: str) -> None:  # noqa: A002 - the word that users see
    """Raise ValueError unless a rule's id is in kebab case with at least two words."""
    if not re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", id):
        raise ValueError(f"invalid rule id {id!r}; use kebab case, starting with the family")
