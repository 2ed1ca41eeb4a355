"""The texts for verdicts and outcomes: a sign, a word, and the next step."""

from collections.abc import Mapping

from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.record import CheckResult, Metric, Outcome, RunRecord, Verdict
from phi3_lora_qa.record_warnings import count_warnings
from phi3_lora_qa.report.safe_text import NOTHING, one_line, plain
from phi3_lora_qa.setting_specs import SourceKind

MARKS = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✕",
    Verdict.INCONCLUSIVE: "?",
    Verdict.INCOMPLETE: "!",
    Verdict.PARTIAL: "◐",
}
OUTCOME_MARKS = {
    Outcome.PASSED: "✓",
    Outcome.FAILED: "✕",
    Outcome.ERROR: "!",
    Outcome.NOT_RUN: NOTHING,
    Outcome.INCONCLUSIVE: "?",
}
OUTCOME_WORDS = {Outcome.NOT_RUN: "not run"}

NEXT_STEPS = {
    Verdict.FAIL: "Fix these in order, then rerun the gate.",
    Verdict.INCOMPLETE: "Some checks did not run. Do not ship the adapter until they do.",
    Verdict.PARTIAL: "Only the selected checks ran. Run the whole gate before you ship.",
}
_MOST_GROUPS = 5
_GROUP_LIMIT = 40


def next_step(record: RunRecord) -> str:
    """Return the reader's next step in one or two sentences."""
    match record.verdict:
        case Verdict.PASS:
            return _step_after_pass(record)
        case Verdict.INCONCLUSIVE:
            return _step_to_decide(record)
        case Verdict.INCOMPLETE if not record.checks:
            return "There is no verdict. Do not ship the adapter until the gate has run."
        case verdict:
            return NEXT_STEPS[verdict]


def _step_after_pass(record: RunRecord) -> str:
    stage = record.settings.get("stage")
    if stage and stage.kind is not SourceKind.DEFAULT:
        return (
            f"All checks of the chosen stages ({plain(stage.value)}) passed. "
            "Run the gate with all stages before you ship."
        )
    if warnings := count_warnings(record.checks):
        return (
            f"All {len(record.checks)} checks passed, with {warnings} "
            f"warning{'s' * (warnings > 1)}. Read {'them' if warnings > 1 else 'it'} before you "
            "ship."
        )
    return f"All {len(record.checks)} checks passed. OK to ship."


def _step_to_decide(record: RunRecord) -> str:
    """Return how many items each group needs, by the estimates of the inconclusive checks."""
    needed: dict[str, tuple[int, int]] = {}
    for check in record.checks:
        if check.outcome is Outcome.INCONCLUSIVE and (found := _items_needed(check)):
            group, need, have = found
            needed[group] = max(needed.get(group, (0, 0)), (need, have))
    if not needed:
        return "Nothing failed, but some results are too close to their limits. Set other limits."
    words = [
        f"{need:,} {one_line(group, _GROUP_LIMIT)} (have {have:,})"
        for group, (need, have) in list(needed.items())[:_MOST_GROUPS]
    ]
    more = ", …" if len(needed) > _MOST_GROUPS else ""
    return f"Nothing failed, but more items are needed: about {', '.join(words)}{more}."


def _items_needed(check: CheckResult) -> tuple[str, int, int] | None:
    """Return a limit's group, the number of items that would decide it, and the number it had."""
    metric: Json = check.measured.get("metric")
    if not isinstance(metric, Mapping):
        return None
    group, have, need = metric.get("group"), metric.get("n"), check.measured.get("items_needed")
    if isinstance(group, str) and type(have) is int and type(need) is int and need > have >= 0:
        return group, need, have
    return None


def items_evaluated(record: RunRecord) -> str:
    """Return how many items the tuned model was evaluated on; empty if not recorded."""
    scored, skipped = record.items_scored, record.items_skipped_early
    return f"{scored} of {scored + skipped} (stopped early)" if skipped else str(scored or "")


def word_of(outcome: Outcome) -> str:
    """Return an outcome in words."""
    return OUTCOME_WORDS.get(outcome, outcome.value)


def metric_word(metric: Metric) -> str:
    """Return a metric's outcome in words; ``no limit`` if it has no limit."""
    return word_of(metric.outcome) if metric.outcome else "no limit"


def metric_mark(metric: Metric) -> str:
    """Return the sign of a metric's outcome."""
    return OUTCOME_MARKS[metric.outcome] if metric.outcome else NOTHING
