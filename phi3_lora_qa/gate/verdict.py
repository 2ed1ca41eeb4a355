"""The verdict: the checks that ran, compared with those that must run. A pure function."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from phi3_lora_qa.gate.plan import PlannedCheck
from phi3_lora_qa.record import CheckResult, Outcome, Verdict
from phi3_lora_qa.record_warnings import describe_warnings

# The worst outcome counts if a check ran twice (a rerun plugin, --dist=each).
_WORST_FIRST = (
    Outcome.FAILED,
    Outcome.ERROR,
    Outcome.NOT_RUN,
    Outcome.INCONCLUSIVE,
    Outcome.PASSED,
)
_VERDICTS_WORST_FIRST = (
    Verdict.FAIL,
    Verdict.INCOMPLETE,
    Verdict.INCONCLUSIVE,
    Verdict.PARTIAL,
    Verdict.PASS,
)
NEVER_RAN = "it was deselected or skipped, or pytest or its process ended early"


@dataclass(frozen=True, kw_only=True)
class AdapterVerdict:
    """The verdict on one adapter, the reason in one sentence, and the checks that it is based on.

    ``accepted`` is whether the process may exit with 0.
    """

    verdict: Verdict
    reason: str
    checks: tuple[CheckResult, ...]
    accepted: bool


def decide_verdict(
    planned: Sequence[PlannedCheck],
    results: Sequence[CheckResult],
    *,
    partial: bool,
    allow_inconclusive: bool,
) -> AdapterVerdict:
    """Decide the verdict on one adapter.

    Args:
        planned: Every check that must run for it.
        results: The results of this adapter's checks, in any order, repetitions included.
        partial: Whether only selected checks ran; the verdict is then PARTIAL.
        allow_inconclusive: Whether an INCONCLUSIVE verdict is accepted.
    """
    checks = tuple(_worst(item, [r for r in results if r.id == item.id]) for item in planned)
    by = {outcome: [c for c in checks if c.outcome is outcome] for outcome in Outcome}
    unfinished = by[Outcome.ERROR] + by[Outcome.NOT_RUN]
    total = len(checks)
    if by[Outcome.FAILED]:
        first, count = by[Outcome.FAILED][0], len(by[Outcome.FAILED])
        verdict = Verdict.FAIL
        reason = f"{count} of {total} checks failed; first: {first.id}: {first.message}"
    elif unfinished or not checks:
        verdict = Verdict.INCOMPLETE
        reason = (
            f"{len(unfinished)} of {total} checks did not finish; "
            f"first: {unfinished[0].id}: {unfinished[0].message}"
            if unfinished
            else "no check was selected"
        )
    elif by[Outcome.INCONCLUSIVE]:
        first, count = by[Outcome.INCONCLUSIVE][0], len(by[Outcome.INCONCLUSIVE])
        verdict = Verdict.INCONCLUSIVE
        reason = f"{count} of {total} checks are inconclusive; first: {first.id}: {first.message}"
    else:
        verdict = Verdict.PASS
        reason = f"all {total} checks passed" if total > 1 else "the only check passed"
        if warnings := describe_warnings(checks):
            reason = f"{reason}, {warnings}"
    accepted = verdict is Verdict.PASS or (verdict is Verdict.INCONCLUSIVE and allow_inconclusive)
    if partial:
        reason = f"only the {total} selected checks ran: {reason}"
        verdict = Verdict.PARTIAL
    return AdapterVerdict(verdict=verdict, reason=reason, checks=checks, accepted=accepted)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst verdict, which is the run's."""
    return min(verdicts, key=_VERDICTS_WORST_FIRST.index)


def _worst(item: PlannedCheck, results: Sequence[CheckResult]) -> CheckResult:
    if not results:
        return CheckResult(
            id=item.id,
            stage=item.check.stage,
            outcome=Outcome.NOT_RUN,
            message=NEVER_RAN,
            fix=f"rerun it: pytest '{item.id}' --phi3-adapter=PATH",
        )
    found = min(results, key=lambda result: _WORST_FIRST.index(result.outcome))
    return replace(found, id=item.id, stage=item.check.stage)
