"""Which rules count, and how much: what a project selects, ignores, or gives another severity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from phi3_lora_qa.adapter.finding import Rule, Severity, all_rules, families, find_rule
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.settings import GateSettings


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice of rules.

    Attributes:
        select: Ids of rules, or families; empty for all.
        ignore: Ids or families that are left out, selected or not.
        levels: Severities other than the rules' own, by id.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    levels: Mapping[str, Severity] = field(default_factory=lambda: MappingProxyType({}))

    def takes(self, rule: Rule) -> bool:
        """Whether a rule is run. That the linter could do its work is never left out."""
        if rule.family == "lint":
            return True
        names = {rule.id, rule.family}
        chosen = not self.select or not names.isdisjoint(self.select)
        return chosen and names.isdisjoint(self.ignore)

    def severity(self, rule: Rule) -> Severity:
        """Return the severity that a rule's findings have."""
        return self.levels.get(rule.id, rule.severity)

    def left_out(self) -> tuple[str, ...]:
        """Return the ids of all rules that are not run."""
        return tuple(rule.id for rule in all_rules() if not self.takes(rule))


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
        select: Ids or families.
        ignore: Ids or families.
        levels: Texts such as ``files-code=error``.

    Raises:
        InputError: A name is no rule and no family, or a level is none.
    """
    for name in (*select, *ignore):
        if name not in (*families(), "lint"):
            find_rule(name)
    found = {}
    for text in levels:
        name, _, level = text.partition("=")
        if level not in list(Severity):
            raise InputError(
                f"{escape(text, 80)} sets no level; write RULE=LEVEL with one of "
                f"{', '.join(Severity)}"
            )
        found[find_rule(name).id] = Severity(level)
    return Selection(select=tuple(select), ignore=tuple(ignore), levels=MappingProxyType(found))
