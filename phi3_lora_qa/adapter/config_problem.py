"""What can be wrong with a field of adapter_config.json."""

from dataclasses import dataclass
from enum import StrEnum


class ProblemKind(StrEnum):
    """What is wrong with a field."""

    MISSING = "missing"
    VALUE = "value"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    CONFLICT = "conflict"
    IGNORED = "ignored"

    @property
    def rejects(self) -> bool:
        """Whether the problem rejects the adapter: it may load as another one, or not at all."""
        return self is not ProblemKind.IGNORED


@dataclass(frozen=True, kw_only=True)
class ConfigProblem:
    """One problem with one field."""

    kind: ProblemKind
    field: str
    message: str
    fix: str
