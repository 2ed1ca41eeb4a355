"""How verdicts and outcomes are said: a sign, a word, and what to do now."""

from phi3_lora_qa.record import Outcome, RunRecord, Verdict
from phi3_lora_qa.report.safe_text import NOTHING, plain

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
    Verdict.PASS: "Nothing to mend: every check ran and held. The adapter may ship.",
    Verdict.FAIL: "Mend these, in this order, and gate the adapter again.",
    Verdict.INCONCLUSIVE: "Nothing failed, but this could not be decided. Give it more items.",
    Verdict.INCOMPLETE: "Something that must run did not. Until it does, the adapter may not ship.",
    Verdict.PARTIAL: "Only chosen checks were run. Gate the adapter whole before it ships.",
}


def next_step(record: RunRecord) -> str:
    """Say in one sentence or two what the reader does now."""
    stage = record.settings.get("stage")
    if record.verdict is Verdict.PASS and stage and stage.source != "default":
        return (
            f"Nothing to mend in the chosen stages ({plain(stage.value)}). "
            "Gate the adapter with all stages before it ships."
        )
    if record.verdict is Verdict.INCOMPLETE and not record.checks:
        return "There is no verdict. Until the adapter is gated, it may not ship."
    return NEXT_STEPS[record.verdict]


def items_asked(record: RunRecord) -> str:
    """How many items the tuned model was asked, and of how many where it was not all of them."""
    scored, spared = record.items_told("scored"), record.items_told("skipped_early")
    return f"{scored} of {scored + spared}, the others spared" if spared else str(scored or "")


def word_of(outcome: Outcome) -> str:
    """The outcome as a reader says it."""
    return OUTCOME_WORDS.get(outcome, outcome.value)
