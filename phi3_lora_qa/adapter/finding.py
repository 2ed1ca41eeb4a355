"""What the linter reports: findings, their severities, and what a rule yields to make one."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is. An error rejects the adapter; the others do not."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


def family_of(rule: str) -> str:
    """Return the family of a rule, the first word of its id.

    Args:
        rule: The rule's id, such as ``values-nan``.
    """
    return rule.partition("-")[0]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault at one place. All texts are printable, even if the adapter's are not.

    Attributes:
        rule: The id of the rule that found it.
        severity: The rule's severity, or the one that the user set for the rule.
        where: The place: a file, ``FILE: FIELD`` or the name of a tensor or module.
        message: What is wrong.
        fix: How to fix it.
        file: The file, if the place is a field of one; else empty.
    """

    rule: str
    severity: Severity
    where: str
    message: str
    fix: str
    file: str = ""


@dataclass(frozen=True)
class FieldOf:
    """A field of a file, as the place of a fault."""

    file: str
    field: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}"


@dataclass(frozen=True)
class Violation:
    """What a rule's function yields for each fault. An empty ``fix`` means the rule's own fix."""

    where: str | FieldOf
    message: str
    fix: str = ""
