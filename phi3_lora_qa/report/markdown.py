"""summary.md: the verdict, what to do and the metrics, for a pull request.

A code host turns names into mentions, numbers into links and markup into a page, so all untrusted
text is either escaped or put into a code span.
"""

import re
from collections.abc import Sequence

from phi3_lora_qa.record import BaseFinding, CheckResult, Metric, RunRecord
from phi3_lora_qa.report.metric_views import shown_limit
from phi3_lora_qa.report.outcome_words import (
    MARKS,
    OUTCOME_MARKS,
    items_evaluated,
    metric_mark,
    metric_word,
    next_step,
    word_of,
)
from phi3_lora_qa.report.page import todo_results
from phi3_lora_qa.report.plots import bounds_tuned_mean
from phi3_lora_qa.report.rerun_commands import rerun_all
from phi3_lora_qa.report.safe_text import NOTHING, duration, interval, number, one_line

MAX_TODO = 20
_TEXT_LIMIT = 400

# Markdown's markup is escaped with a backslash; text that a code host would turn into a link or a
# mention is followed by a zero-width space.
_MARKUP = re.compile(r"([\\`*_\[\]<>|~&!$])")
_LINKING = re.compile(r"@|#|(?<=www)\.|:(?=//)", re.IGNORECASE)


def render_markdown(record: RunRecord) -> str:
    """Render the summary; a pure function of the record."""
    head = f"## {MARKS[record.verdict]} {record.verdict} {code(record.adapter.name)}"
    evaluated = items_evaluated(record)
    blocks = [
        head,
        f"**{record.verdict}:** {text(record.reason)}",
        f"Base {code(record.base.id or 'none loaded')}, {len(record.checks)} checks, "
        f"{f'items {evaluated}, ' if evaluated else ''}"
        f"{duration(record.seconds)}."
        if record.checks
        else "",
        f"### What to do\n\n{text(next_step(record))}",
        _todo(record.checks),
        _about_base(record.base.findings),
        _metrics(record.metrics),
        f"Rerun the gate: {code(rerun_all(record), limit=2_000)}",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def text(value: str) -> str:
    """Escape untrusted text to one line that Markdown and a code host show unchanged."""
    line = _MARKUP.sub(r"\\\1", one_line(value, _TEXT_LIMIT))
    return _LINKING.sub(lambda match: match[0] + "&#8203;", line)


def code(value: str, limit: int = _TEXT_LIMIT) -> str:
    """Put untrusted text into a code span, fenced longer than any run of backticks in it."""
    line = one_line(value, limit).replace("|", "\\|") or NOTHING
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _todo(results: Sequence[CheckResult]) -> str:
    todo = todo_results(results)
    lines = []
    for entry in todo[:MAX_TODO]:
        first = entry[0]
        more = f" and {len(entry) - 1} more" if len(entry) > 1 else ""
        lines.append(
            f"- {OUTCOME_MARKS[first.outcome]} {word_of(first.outcome)}: "
            f"{code(first.id)}{more}: {text(first.message)}"
        )
        if first.fix:
            lines.append(f"  **Fix:** {text(first.fix)}")
    if len(todo) > MAX_TODO:
        lines.append(f"- and {len(todo) - MAX_TODO} more; report.html lists all of them")
    return "\n".join(lines)


def _about_base(findings: Sequence[BaseFinding]) -> str:
    if not findings:
        return ""
    lines = [
        f"- {text(found.severity)}: {code(found.rule)} at {code(found.where)}: "
        f"{text(found.message)}\n  **Fix:** {text(found.fix)}"
        for found in findings[:MAX_TODO]
    ]
    if len(findings) > MAX_TODO:
        lines.append(f"- and {len(findings) - MAX_TODO} more; report.html lists all of them")
    return "\n".join(["### About the base, not the adapter", "", *lines])


def _metrics(metrics: Sequence[Metric]) -> str:
    if not metrics:
        return ""
    rows = [
        f"| {text(m.group)} | {text(m.metric)} | {number(m.base)} | {number(m.tuned)} "
        f"| {number(m.difference, signed=True)} | "
        f"{interval(m.low, m.high, of_mean=bounds_tuned_mean(m))} | "
        f"{text(shown_limit(m) or 'none')} | {metric_mark(m)} {metric_word(m)} |"
        for m in metrics
    ]
    head = "| group | metric | base | tuned | difference | interval | limit | outcome |"
    return "\n".join(["### Metrics", "", head, "|---|---|--:|--:|--:|---|---|---|", *rows])
