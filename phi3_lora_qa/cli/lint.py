"""Commands ``lint`` and ``explain``: check an adapter's files, and document the rules."""

import os
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.adapter.lint import LintReport
from phi3_lora_qa.adapter.rule_catalogue import documented_rules, find_rule
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.lint_adapter import lint_adapter
from phi3_lora_qa.settings import GateSettings, resolve

FORMATS = ("text", "json", "github", "sarif")


@dataclass(frozen=True, kw_only=True)
class LintOptions:
    """The options of the command line; empty ones come from the project's configuration."""

    base: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    any_base: bool = False
    parent: Path | None = None


def lint_command(adapter: Path, options: LintOptions, format: str = "text") -> int:  # noqa: A002
    """Lint an adapter and print the report.

    Args:
        adapter: The adapter's folder.
        options: The base, and the selection of rules.
        format: ``text``, ``json``, ``github`` or ``sarif``.

    Returns:
        The exit status: 0 for an accepted adapter, 1 for a rejected one.

    Raises:
        InputError: The format or a rule is unknown, or the folder of the adapter or of its parent
            cannot be read at all.
        BaseModelError: The base is unknown, not on this machine, or unreadable.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format: {escape(format)!r}; use one of {', '.join(FORMATS)}")
    settings = _settings(adapter, options)
    report = lint_adapter(
        adapter,
        options.base,
        select=settings.lint_select,
        ignore=settings.lint_ignore,
        levels=settings.lint_levels,
        any_base=settings.any_base,
        parent=options.parent or settings.parent,
    )
    print(_write(report, format).rstrip("\n"))
    return 0 if report.accepted else 1


def explain_command(name: str) -> None:
    """Print the documentation of a rule, or list the rules of a family.

    Raises:
        InputError: There is no such rule or family; the message names similar ones.
    """
    family = [rule for rule in documented_rules() if rule.family == name]
    for rule in family:
        print(f"{rule.id} ({rule.severity}): {rule.title}")
    if family:
        return
    found = find_rule(name)
    print(f"{found.id} ({found.severity})\n\n{found.title}.\n")
    print(f"Why it matters: {found.why}\n\nHow to fix it: {found.fix}.")
    if "base" in found.needs:
        print("\nThis rule needs the base model (--base).")


def _settings(adapter: Path, options: LintOptions) -> GateSettings:
    """Return the settings that the gate would use here, so that lint applies the same rules."""
    selection = {
        "lint_select": options.select, "lint_ignore": options.ignore, "lint_levels": options.levels,
    }  # fmt: skip
    here = Path.cwd()
    passed = {name: list(value) or None for name, value in selection.items()}
    any_base = options.any_base or None
    return resolve(
        {"adapter": [adapter], "any_base": any_base, **passed}, os.environ, {}, here, here
    )


def _write(report: LintReport, format: str) -> str:  # noqa: A002
    """Return the report in one of `FORMATS`; only the module of that format is imported."""
    match format:
        case "json":
            from phi3_lora_qa.cli.lint_json import to_json as write
        case "github":
            from phi3_lora_qa.cli.lint_github import to_github as write
        case "sarif":
            from phi3_lora_qa.cli.lint_sarif import to_sarif as write
        case _:
            from phi3_lora_qa.cli.lint_text import to_text as write
    return write(report)
