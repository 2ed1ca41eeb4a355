"""Writes a lint report as GitHub workflow commands, which annotate a run."""

from phi3_lora_qa.adapter.finding import Severity
from phi3_lora_qa.adapter.lint_report import LintReport, describe_unchecked

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def to_github(report: LintReport) -> str:
    """Return one workflow command for each finding, and a summary line for the log.

    Texts are escaped like in GitHub's own toolkit: untrusted text with a line break could otherwise
    issue a workflow command.
    """
    lines = [
        f"::{_LEVELS[f.severity]} title={_property(f'{f.rule} at {f.where}')}::"
        f"{_data(f'{f.message}. Fix: {f.fix}')}"
        for f in (*report.findings, *report.base_findings)
    ]
    for rule, count in report.unlisted().items():
        lines.append(_notice(f"{rule} in other places", f"{count} more places are not listed"))
    if report.ignored:
        lines.append(_notice("rules ignored", ", ".join(report.ignored)))
    if report.unchecked:
        lines.append(_notice("rules not checked", describe_unchecked(report.unchecked)))
    last = f"adapter {report.adapter} is {report.verdict}: {report.summary}"
    return "\n".join([*lines, _data(last)])


def _notice(title: str, text: str) -> str:
    return f"::notice title={_property(title)}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
