"""summary.md: the verdict, what to do and the metrics, for a pull request.

The text is read by a forge that turns names into mentions, numbers into links and markup into a
page, so everything that came from outside is either escaped or stands in a code span.
"""

import re
from collections.abc import Sequence

from phi3_lora_qa.record import CheckResult, Metric, RunRecord
from phi3_lora_qa.report.outcome_words import MARKS, OUTCOME_MARKS, items_asked, next_step, word_of
from phi3_lora_qa.report.page import todo_results
from phi3_lora_qa.report.plots import bounds_tuned_mean, limit_text
from phi3_lora_qa.report.rerun_commands import rerun_all
from phi3_lora_qa.report.safe_text import NOTHING, duration, interval, number, one_line

MAX_TODO = 20
_TEXT_LIMIT = 400

# What Markdown reads as markup is escaped with a backslash; what a forge makes a link or a
# mention of is broken by a space of no width behind it.
_MARKUP = re.compile(r"([\\`*_\[\]<>|~&!$])")
_LINKING = re.compile(r"@|#|(?<=www)\.|:(?=//)", re.IGNORECASE)


def render_markdown(record: RunRecord) -> str:
    """Render the summary; a pure function of the record."""
    head = f"## {MARKS[record.verdict]} {record.verdict} {code(record.adapter.name)}"
    asked = items_asked(record)
    blocks = [
        head,
        f"**{record.verdict}:** {text(record.reason)}",
        f"Base {code(record.base.id or 'none loaded')}, {len(record.checks)} checks, "
        f"{f'items {asked}, ' if asked else ''}"
        f"{duration(record.seconds)}."
        if record.checks
        else "",
        f"### What to do\n\n{text(next_step(record))}",
        _todo(record.checks),
        _metrics(record.metrics),
        f"Gate it again: {code(rerun_all(record), limit=2_000)}",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def text(value: str) -> str:
    """Escape untrusted text to one line that Markdown and a forge show as it is."""
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
        lines.append(f"- and {len(todo) - MAX_TODO} more; report.html has them all")
    return "\n".join(lines)


def _demand(metric: Metric) -> str:
    return limit_text(metric.limit).removeprefix(f"{metric.metric} ") or "none"


def _metrics(metrics: Sequence[Metric]) -> str:
    if not metrics:
        return ""
    rows = [
        f"| {text(m.group)} | {text(m.metric)} | {number(m.base)} | {number(m.tuned)} "
        f"| {number(m.difference, signed=True)} | "
        f"{interval(m.low, m.high, of_mean=bounds_tuned_mean(m))} | {text(_demand(m))} "
        f"| {OUTCOME_MARKS[m.outcome]} {word_of(m.outcome)} |"
        for m in metrics
    ]
    head = "| group | metric | base | tuned | difference | interval | limit | outcome |"
    return "\n".join(["### Metrics", "", head, "|---|---|--:|--:|--:|---|---|---|", *rows])
