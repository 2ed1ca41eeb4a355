"""A lint report for people: what is wrong, rule by rule, with the first error's mend at the end."""

import os
import sys
from collections.abc import Sequence
from itertools import groupby

import click

from phi3_lora_qa.adapter.finding import Finding, Severity
from phi3_lora_qa.adapter.lint import LintReport
from phi3_lora_qa.cli.lint import wanting

MAX_PLACES = 3
"""How many places of one rule are shown; JSON has more of them."""

MAX_NAMES = 5
"""How many ignored rules are named."""

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
_MARGIN = " " * 10


def to_text(report: LintReport) -> str:
    """Return the report in lines, coloured where stdout is a terminal and takes colours."""
    text = "\n".join(_lines(report))
    return text if _takes_colours() else click.unstyle(text)


def _takes_colours() -> bool:
    """Whether stdout is a terminal, and nobody asked for none (see no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def _lines(report: LintReport) -> list[str]:
    colour = "green" if report.accepted else "red"
    verdict = click.style(report.verdict, fg=colour, bold=True)
    lines = [f"{verdict}  {report.adapter}", _counts(report)]
    family = ""
    for rule, group in groupby(report.findings, key=lambda finding: finding.rule):
        if (own := rule.partition("-")[0]) != family:
            family = own
            lines.append(f"\n{_bold(family)}")
        lines.extend(_of_rule(list(group), report.totals.get(rule, 1)))
    if report.ignored or report.unchecked:
        lines.append("")
    if report.ignored:
        lines.append(f"{_bold('ignored')}: {_some(report.ignored)}")
    if report.unchecked:
        lines.append(f"{_bold('not checked')}: {wanting(report.unchecked)}")
    if not report.accepted:
        lines += ["", _mend_first(report.findings[0])]
    return lines


def _of_rule(findings: Sequence[Finding], total: int) -> list[str]:
    """What one rule found: a single place on the rule's own line, of several the first ones."""
    first, shown = findings[0], findings[:MAX_PLACES]
    place = first.where if total <= 1 else f"{total} places"
    severity = click.style(f"{first.severity:<8}", fg=_COLOURS[first.severity])
    lines = [f"  {severity}{_bold(first.rule)}  {place}"]
    alike = len({finding.fix for finding in shown}) == 1
    for finding in shown:
        where = f"at {finding.where}: " if total > 1 else ""
        lines.append(f"{_MARGIN}{where}{finding.message}")
        if not alike or (finding is shown[-1] and total <= MAX_PLACES):
            lines.append(_fix(finding))
    if total > MAX_PLACES:
        lines.append(f"{_MARGIN}and {total - MAX_PLACES} more")
        lines += [_fix(first)] if alike else []
    return lines


def _fix(finding: Finding) -> str:
    return f"{_MARGIN}{click.style('fix:', fg='green')} {finding.fix}"


def _mend_first(finding: Finding) -> str:
    head = click.style("mend first", fg="red", bold=True)
    return f"{head}: {finding.rule} at {finding.where}\n{_MARGIN}{finding.fix}"


def _bold(text: str) -> str:
    return click.style(text, bold=True)


def _counts(report: LintReport) -> str:
    parts = [
        f"{count} {severity}{'' if count == 1 else 's'}"
        for severity in Severity
        if (count := report.count(severity)) and severity is not Severity.INFO
    ]
    return f"{', '.join(parts) or 'nothing to mend'}; {len(report.rules_run)} rules ran"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
