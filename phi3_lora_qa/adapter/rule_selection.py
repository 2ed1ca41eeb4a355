"""Which rules count, and how much: what a project selects, ignores, or gives another severity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from phi3_lora_qa.adapter.finding import Rule, Severity, all_rules, families, find_rule
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.settings import GateSettings

ALL = "ALL"
"""Selects every rule, as it does in ruff."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice of rules. A selector is the id of a rule, a family, or `ALL`; the closer one counts.

    Attributes:
        select: Selectors of what is run.
        ignore: Selectors of what is left out; of two that are as close, this one counts.
        levels: Severities other than the rules' own, by selector.
    """

    select: tuple[str, ...] = (ALL,)
    ignore: tuple[str, ...] = ()
    levels: Mapping[str, Severity] = field(default_factory=lambda: MappingProxyType({}))

    def takes(self, rule: Rule) -> bool:
        """Whether a rule is run. That the linter could do its work is never left out."""
        return rule.family == "lint" or _closest(self.select, rule) > _closest(self.ignore, rule)

    def severity(self, rule: Rule) -> Severity:
        """Return the severity that a rule's findings have."""
        names = [name for name in _selectors(rule) if name in self.levels]
        return self.levels[names[-1]] if names else rule.severity

    def left_out(self) -> tuple[str, ...]:
        """Return the ids of all rules that are not run."""
        return tuple(rule.id for rule in all_rules() if not self.takes(rule))


def _selectors(rule: Rule) -> tuple[str, ...]:
    """Return what stands for a rule, the closest last."""
    return (ALL, rule.family, rule.id)


def _closest(chosen: tuple[str, ...], rule: Rule) -> int:
    """Return how close the closest of the chosen selectors is; -1 where none stands for it."""
    return max((n for n, name in enumerate(_selectors(rule)) if name in chosen), default=-1)


def selection_of(settings: GateSettings) -> Selection:
    """Return the choice of rules that a project's settings make.

    Raises:
        InputError: As `read_selection`.
    """
    return read_selection(settings.lint_select, settings.lint_ignore, settings.lint_levels)


def read_selection(
    select: Sequence[str], ignore: Sequence[str], levels: Sequence[str]
) -> Selection:
    """Read what a user wrote.

    Args:
        select: Selectors, or lists of them with commas; all rules where there are none.
        ignore: Likewise.
        levels: Texts such as ``files-code=error``, likewise.

    Raises:
        InputError: A name is no rule and no family, or a level is none.
    """
    found = {}
    for text in _split(levels):
        name, _, level = text.partition("=")
        if level not in list(Severity):
            raise InputError(
                f"{escape(text, 80)} sets no level; write RULE=LEVEL with one of "
                f"{', '.join(Severity)}"
            )
        found[_known(name)] = Severity(level)
    return Selection(
        select=tuple(map(_known, _split(select))) or (ALL,),
        ignore=tuple(map(_known, _split(ignore))),
        levels=MappingProxyType(found),
    )


def _split(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _known(name: str) -> str:
    return name if name in (ALL, *families(), "lint") else find_rule(name).id
