"""Writes a lint report as text: the findings by rule, and the first error's fix at the end."""

import os
import sys
from collections.abc import Sequence
from itertools import groupby

import click

from phi3_lora_qa.adapter.finding import Finding, Severity, family_of
from phi3_lora_qa.adapter.lint_report import LintReport, describe_unchecked

MAX_PLACES = 3
"""The most places of one rule that are shown; JSON lists more."""

MAX_NAMES = 5
"""The most ignored rules that are named."""

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
_MARGIN = " " * 10


def to_text(report: LintReport) -> str:
    """Return the report as lines, with colours if stdout is a terminal that supports them."""
    text = "\n".join(_lines(report))
    return text if _supports_colours() else click.unstyle(text)


def _supports_colours() -> bool:
    """Whether stdout is a terminal, and the user has not disabled colours (see no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def _lines(report: LintReport) -> list[str]:
    colour = "green" if report.accepted else "red"
    verdict = click.style(report.verdict, fg=colour, bold=True)
    lines = [f"{verdict}  {report.adapter}", report.summary]
    family = ""
    for rule, group in groupby(report.findings, key=lambda finding: finding.rule):
        if (own := family_of(rule)) != family:
            family = own
            lines.append(f"\n{_bold(family)}")
        lines.extend(_rule_lines(list(group), report.totals[rule]))
    if report.base_findings:
        lines += ["", f"{_bold('the base model')} (not the adapter)"]
        lines += finding_lines(report.base_findings)
    if report.ignored or report.unchecked:
        lines.append("")
    if report.ignored:
        lines.append(f"{_bold('ignored')}: {_shorten(report.ignored)}")
    if report.unchecked:
        lines.append(f"{_bold('not checked')}: {describe_unchecked(report.unchecked)}")
    if not report.accepted:
        lines += ["", _fix_first(report.findings[0])]
    return lines


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Return the lines of findings that are all listed, such as those about a base."""
    return [
        line
        for _, group in groupby(findings, key=lambda finding: finding.rule)
        for line in _lines_of(list(group))
    ]


def _lines_of(findings: Sequence[Finding]) -> list[str]:
    return _rule_lines(findings, len(findings))


def _rule_lines(findings: Sequence[Finding], total: int) -> list[str]:
    """Return the lines of one rule: a single place on the rule's line, otherwise the first ones."""
    first, shown = findings[0], findings[:MAX_PLACES]
    place = first.where if total <= 1 else f"{total} places"
    severity = click.style(f"{first.severity:<8}", fg=_COLOURS[first.severity])
    lines = [f"  {severity}{_bold(first.rule)}  {place}"]
    same_fix = len({finding.fix for finding in shown}) == 1
    for finding in shown:
        where = f"at {finding.where}: " if total > 1 else ""
        lines.append(f"{_MARGIN}{where}{finding.message}")
        if not same_fix or (finding is shown[-1] and total <= MAX_PLACES):
            lines.append(_fix(finding))
    if total > MAX_PLACES:
        lines.append(f"{_MARGIN}and {total - MAX_PLACES} more")
        lines += [_fix(first)] if same_fix else []
    return lines


def _fix(finding: Finding) -> str:
    return f"{_MARGIN}{click.style('fix:', fg='green')} {finding.fix}"


def _fix_first(finding: Finding) -> str:
    head = click.style("start here", fg="red", bold=True)
    return f"{head}: {finding.rule} at {finding.where}\n{_MARGIN}{finding.fix}"


def _bold(text: str) -> str:
    return click.style(text, bold=True)


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
