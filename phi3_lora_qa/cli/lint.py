"""Commands ``lint`` and ``explain``: show what the rules say, to people, programs and GitHub."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, Severity, all_rules, find_rule, lint
from phi3_lora_qa.adapter.rule_selection import selection_of
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.settings import GateSettings, reject_if_inside, resolve

SCHEMA_VERSION = 1
_OPTIONS = {"base": "give --base DIR_OR_ID"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was given on the command line; empty where the project's configuration decides."""

    base: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()


def lint_command(adapter: Path, asked: Asked, format: str = "text") -> int:  # noqa: A002
    """Lint an adapter and print the report.

    Args:
        adapter: The adapter's folder.
        asked: The base, and which rules count. Without a base agreement with it is unchecked.
        format: ``text``, ``json``, ``github`` or ``sarif``.

    Returns:
        The exit status: 0 accepted, 1 rejected.

    Raises:
        InputError: The format or a rule is unknown, or the adapter's folder cannot be read at all.
        BaseModelError: The base is unknown, not on this machine, or unreadable.
    """
    if format not in _WRITERS:
        raise InputError(f"unknown format {escape(format)!r}; choose text, json, github or sarif")
    selection = selection_of(_settings(adapter, asked))
    folder = AdapterFolder.open(adapter)
    base = None if asked.base is None else _open_base(asked.base)
    if base:
        reject_if_inside(
            [adapter], base.path, "files of the base", "give a base from outside of it"
        )
    report = lint(folder, base, selection)
    print(_WRITERS[format](report).rstrip("\n"))
    return 0 if report.accepted else 1


def explain_command(name: str) -> None:
    """Print what a rule's finding means, or which rules a family has.

    Raises:
        InputError: There is no such rule or family; the message names similar ones.
    """
    family = [rule for rule in all_rules() if rule.family == name]
    for rule in family:
        print(f"{rule.id} ({rule.severity}): {rule.title}")
    if family:
        return
    found = find_rule(name)
    print(f"{found.id} ({found.severity})\n\n{found.title}.\n")
    print(f"Why it matters: {found.why}\n\nHow to mend it: {found.fix}.")
    if "base" in found.needs:
        print("\nChecked only where a base is given (--base).")


def to_json(report: LintReport) -> str:
    """Return the report as one JSON object, as the contract lays it out."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "adapter": report.adapter,
        "verdict": report.verdict,
        "findings": [asdict(finding) for finding in report.findings],
        "summary": {
            "errors": report.count(Severity.ERROR),
            "warnings": report.count(Severity.WARNING),
            "infos": report.count(Severity.INFO),
            "rules_run": len(report.rules_run),
            "unchecked": list(report.unchecked),
            "ignored": list(report.ignored),
        },
    }
    return json.dumps(content, indent=2)


def to_github(report: LintReport) -> str:
    """Return workflow commands that annotate a run, and a last line for its log.

    A line that a stranger's text could end early would be a command of theirs, so texts are
    escaped as GitHub's own toolkit does it.
    """
    levels = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
    lines = [
        f"::{levels[f.severity]} title={_property(f'{f.rule} at {f.where}')}::"
        f"{_data(f'{f.message}. Fix: {f.fix}')}"
        for f in report.findings
    ]
    if report.ignored:
        lines.append(f"::notice title=rules ignored::{_data(', '.join(report.ignored))}")
    if report.unchecked:
        lines.append(f"::notice title=rules not checked::{_data(wanting(report.unchecked))}")
    return "\n".join([*lines, f"adapter {_data(report.adapter)} is {report.verdict}"])


def wanting(unchecked: Sequence[str]) -> str:
    """Say in one line how many rules did not run, for want of what, and what would change it."""
    wants = Counter(text.rpartition("(needs the ")[2].rstrip(")") for text in unchecked)
    parts = [
        f"{count} for want of a {what}" + (f" ({_OPTIONS[what]})" if what in _OPTIONS else "")
        for what, count in wants.most_common()
    ]
    return f"{len(unchecked)} rules: {', '.join(parts)}"


def _settings(adapter: Path, asked: Asked) -> GateSettings:
    """What the gate would be set to here for this adapter, so that both follow the same rules."""
    options = {
        "lint_select": asked.select, "lint_ignore": asked.ignore, "lint_levels": asked.levels,
    }  # fmt: skip
    here = Path.cwd()
    given = {name: list(value) or None for name, value in options.items()}
    return resolve({"adapter": [adapter], **given}, os.environ, {}, here, here)


def _open_base(reference: str) -> BaseFiles:
    from phi3_lora_qa.models.hub_base import is_hub_id, open_hub_base
    from phi3_lora_qa.models.registry import find_known, resolve_base

    if is_hub_id(reference) and not Path(reference).exists() and not find_known(reference):
        return open_hub_base(reference)
    ref = resolve_base(reference)
    return open_hub_base(ref.id) if ref.folder is None else BaseFiles.open(ref.folder, id=ref.id)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _text(report: LintReport) -> str:
    from phi3_lora_qa.cli.lint_text import to_text

    return to_text(report)


def _sarif(report: LintReport) -> str:
    from phi3_lora_qa.cli.lint_sarif import to_sarif

    return to_sarif(report)


_WRITERS: Mapping[str, Callable[[LintReport], str]] = {
    "text": _text,
    "json": to_json,
    "github": to_github,
    "sarif": _sarif,
}
