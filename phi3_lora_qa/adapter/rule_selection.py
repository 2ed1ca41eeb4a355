"""The user's selection of lint rules: which run, and at which severity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from phi3_lora_qa.adapter.finding import Severity
from phi3_lora_qa.adapter.rule import DocumentedRule
from phi3_lora_qa.adapter.rule_catalogue import (
    all_rules,
    documented_families,
    find_rule,
)
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.settings import GateSettings

ALL = "ALL"
"""Selects every rule, as in ruff."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A selection of rules. A selector is a rule's id, a family or `ALL`; the most specific wins.

    Attributes:
        select: Selectors of the rules that run.
        ignore: Selectors of the rules that do not run; they win over equally specific ones.
        levels: The severities that replace the rules' own, by selector.
    """

    select: tuple[str, ...] = (ALL,)
    ignore: tuple[str, ...] = ()
    levels: Mapping[str, Severity] = field(default_factory=lambda: MappingProxyType({}))

    def includes(self, rule: DocumentedRule) -> bool:
        """Whether a rule runs. Family lint, which reports the linter's own faults, always does."""
        return rule.family == "lint" or _specificity(self.select, rule) > _specificity(
            self.ignore, rule
        )

    def severity(self, rule: DocumentedRule) -> Severity:
        """Return the severity of a rule's findings."""
        names = [name for name in _selectors(rule) if name in self.levels]
        return self.levels[names[-1]] if names else rule.severity

    def excluded(self) -> tuple[str, ...]:
        """Return the ids of the rules on an adapter that do not run."""
        return tuple(rule.id for rule in all_rules() if not self.includes(rule))


def _selectors(rule: DocumentedRule) -> tuple[str, ...]:
    """Return the selectors that match a rule, the most specific last."""
    return (ALL, rule.family, rule.id)


def _specificity(selectors: tuple[str, ...], rule: DocumentedRule) -> int:
    """Return how specific the most specific matching selector is; -1 if none matches."""
    return max((n for n, name in enumerate(_selectors(rule)) if name in selectors), default=-1)


def selection_of(settings: GateSettings) -> Selection:
    """Return the selection that a project's settings make.

    Raises:
        InputError: As in `read_selection`.
    """
    return read_selection(settings.lint_select, settings.lint_ignore, settings.lint_levels)


def read_selection(
    select: Sequence[str], ignore: Sequence[str], levels: Sequence[str]
) -> Selection:
    """Parse a selection.

    Args:
        select: Selectors, or lists of them separated by commas; if empty, all rules run.
        ignore: Selectors, likewise.
        levels: Texts such as ``files-code=error``, likewise.

    Raises:
        InputError: A selector or a level is unknown.
    """
    severities = {}
    for text in _split(levels):
        name, _, level = text.partition("=")
        if level not in list(Severity):
            raise InputError(
                f"invalid level: {escape(text, 80)}; write RULE=LEVEL with one of "
                f"{', '.join(Severity)}"
            )
        severities[_selector(name)] = Severity(level)
    return Selection(
        select=tuple(map(_selector, _split(select))) or (ALL,),
        ignore=tuple(map(_selector, _split(ignore))),
        levels=MappingProxyType(severities),
    )


def _split(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _selector(name: str) -> str:
    return name if name in (ALL, *documented_families(), "lint") else find_rule(name).id
