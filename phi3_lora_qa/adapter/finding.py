"""What a rule reports, and the registry in which every rule stands."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from phi3_lora_qa.errors import InputError, escape

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.lint_context import LintContext


class Severity(StrEnum):
    """How bad a finding is. An error rejects the adapter; the others do not."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault at one place. All texts are printable, whatever the adapter holds."""

    rule: str
    severity: Severity
    where: str
    message: str
    fix: str


@dataclass(frozen=True)
class Violation:
    """What a rule function yields; an empty ``fix`` stands for the rule's own."""

    where: str
    message: str
    fix: str = ""


Need = Literal[
    "config",
    "weights",
    "implied",
    "base",
    "base weights",
    "tokenizer",
    "base's tokenizer",
    "manifest",
]
"""A part of the subject without which a rule has nothing to say."""

CheckFunction = Callable[["LintContext"], Iterator[Violation]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule: what it is called, what it means, and the function that finds it.

    Attributes:
        id: Kebab case, beginning with the family.
        family: The group in which its findings are shown.
        severity: Of every finding of this rule.
        title: What is checked, as a sentence that holds for a good adapter.
        why: What happens to those who do not look.
        fix: How to mend it in general; a finding may say it more exactly.
        needs: What must be there for the rule to run.
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
        """Turn a hit into a finding; dear, as every text is escaped, so only for what is shown."""
        return Finding(
            rule=self.id,
            severity=self.severity,
            where=escape(violation.where) or '""',  # a name from the file may be empty
            message=escape(violation.message),
            fix=escape(violation.fix or self.fix),
        )


_RULES: dict[str, Rule] = {}


def rule(  # noqa: PLR0913 - a rule says all this of itself
    id: str,  # noqa: A002 - the word that users see
    *,
    severity: Severity,
    title: str,
    why: str,
    fix: str,
    needs: Iterable[Need] = (),
) -> Callable[[CheckFunction], CheckFunction]:
    """Register the decorated function as a rule; its family is the first word of the id."""

    def register(check: CheckFunction) -> CheckFunction:
        if id in _RULES or not re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", id):
            raise ValueError(f"{id!r} is no good rule id, or is taken; choose another")
        _RULES[id] = Rule(
            id=id,
            family=id.partition("-")[0],
            severity=severity,
            title=title,
            why=why,
            fix=fix,
            needs=tuple(needs),
            check=check,
        )
        return check

    return register


def all_rules() -> tuple[Rule, ...]:
    """Return every rule in the order in which they run and are shown: a reader's order."""
    import phi3_lora_qa.adapter.rules  # noqa: F401 - importing registers the rules

    order = (
        "files", "config", "base", "tensors", "values", "tokenizer", "manifest", "export", "lint",
    )  # fmt: skip
    return tuple(sorted(_RULES.values(), key=lambda r: order.index(r.family)))


def find_rule(id: str) -> Rule:  # noqa: A002
    """Return the rule of this id.

    Raises:
        InputError: There is none; the message lists those with a similar name.
    """
    rules = {r.id: r for r in all_rules()}
    if id not in rules:
        import difflib

        near = difflib.get_close_matches(id, rules, n=3, cutoff=0.4) or list(rules)
        raise InputError(f"there is no rule {escape(id)!r}; choose one of: {', '.join(near)}")
    return rules[id]


def families() -> tuple[str, ...]:
    """Return the families of rules in the order in which they run.

    Family lint is not among them: it says nothing of an adapter, but that the linter failed.
    """
    return tuple(dict.fromkeys(r.family for r in all_rules() if r.family != "lint"))
