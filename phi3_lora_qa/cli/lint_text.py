"""A lint report for people: what is wrong, rule by rule, with the first error's mend at the end."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

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
    """Return the report in lines, coloured where stdout is a terminal."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    with console.capture() as captured:
        for line in _lines(report):
            console.print(line)
    return captured.get()


def _lines(report: LintReport) -> list[Text]:
    colour = "green" if report.accepted else "red"
    lines = [
        Text.assemble((report.verdict, f"bold {colour}"), f"  {report.adapter}"),
        Text(_counts(report)),
    ]
    family = ""
    for rule, group in groupby(report.findings, key=lambda finding: finding.rule):
        if (own := rule.partition("-")[0]) != family:
            family = own
            lines.append(Text(f"\n{family}", style="bold"))
        lines.extend(_of_rule(list(group), report.totals.get(rule, 1)))
    if report.ignored or report.unchecked:
        lines.append(Text())
    if report.ignored:
        lines.append(Text.assemble(("ignored", "bold"), f": {_some(report.ignored)}"))
    if report.unchecked:
        lines.append(Text.assemble(("not checked", "bold"), f": {wanting(report.unchecked)}"))
    if not report.accepted:
        lines += [Text(), _mend_first(report.findings[0])]
    return lines


def _of_rule(findings: Sequence[Finding], total: int) -> list[Text]:
    """What one rule found: a single place on the rule's own line, of several the first ones."""
    first, shown = findings[0], findings[:MAX_PLACES]
    place = first.where if total <= 1 else f"{total} places"
    head = [(f"  {first.severity:<8}", _COLOURS[first.severity]), (first.rule, "bold")]
    lines = [Text.assemble(*head, f"  {place}")]
    alike = len({finding.fix for finding in shown}) == 1
    for finding in shown:
        where = f"at {finding.where}: " if total > 1 else ""
        lines.append(Text(f"{_MARGIN}{where}{finding.message}"))
        if not alike or (finding is shown[-1] and total <= MAX_PLACES):
            lines.append(_fix(finding))
    if total > MAX_PLACES:
        lines.append(Text(f"{_MARGIN}and {total - MAX_PLACES} more"))
        lines += [_fix(first)] if alike else []
    return lines


def _fix(finding: Finding) -> Text:
    return Text.assemble((f"{_MARGIN}fix: ", "green"), finding.fix)


def _mend_first(finding: Finding) -> Text:
    head = f"{finding.rule} at {finding.where}"
    return Text.assemble(("mend first", "bold red"), f": {head}\n{_MARGIN}", finding.fix)


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
