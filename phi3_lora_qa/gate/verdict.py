"""The verdict: what ran, held against what must run. Pure, and never in favour of the adapter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from phi3_lora_qa.gate.plan import PlannedCheck
from phi3_lora_qa.record import CheckResult, Outcome, Verdict

# A check that ran twice (a rerun plugin, --dist=each) counts with its worst outcome.
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
NEVER_RAN = "it did not run: deselected, skipped, stopped early, or its process ended"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict of one adapter, why in one sentence, and the checks that it rests on.

    ``accepted`` says whether the process may exit with 0.
    """

    verdict: Verdict
    reason: str
    checks: tuple[CheckResult, ...]
    accepted: bool


def judge(
    planned: Sequence[PlannedCheck],
    results: Sequence[CheckResult],
    *,
    partial: bool,
    allow_inconclusive: bool,
) -> Judgement:
    """Judge one adapter.

    Args:
        planned: Every check that must run for it.
        results: What the checks of this adapter recorded, in any order, repetitions included.
        partial: Only chosen ids were run; the verdict is then PARTIAL.
        allow_inconclusive: An INCONCLUSIVE verdict is accepted.
    """
    checks = tuple(_worst(item, [r for r in results if r.id == item.id]) for item in planned)
    by = {outcome: [c for c in checks if c.outcome is outcome] for outcome in Outcome}
    unfinished = by[Outcome.ERROR] + by[Outcome.NOT_RUN]
    total = len(checks)
    if by[Outcome.FAILED]:
        first, count = by[Outcome.FAILED][0], len(by[Outcome.FAILED])
        verdict = Verdict.FAIL
        reason = f"{count} of {total} checks did not hold; first {first.id}: {first.message}"
    elif unfinished or not checks:
        verdict = Verdict.INCOMPLETE
        reason = (
            f"{len(unfinished)} of {total} checks gave no answer; "
            f"first {unfinished[0].id}: {unfinished[0].message}"
            if unfinished
            else "no check was chosen"
        )
    elif by[Outcome.INCONCLUSIVE]:
        first, count = by[Outcome.INCONCLUSIVE][0], len(by[Outcome.INCONCLUSIVE])
        verdict = Verdict.INCONCLUSIVE
        reason = f"{count} of {total} checks cannot be decided; first {first.id}: {first.message}"
    else:
        verdict, reason = Verdict.PASS, f"all {total} checks ran and held"
    accepted = verdict is Verdict.PASS or (verdict is Verdict.INCONCLUSIVE and allow_inconclusive)
    if partial:
        reason = f"only {total} chosen checks were run: {reason}"
        verdict = Verdict.PARTIAL
    return Judgement(verdict=verdict, reason=reason, checks=checks, accepted=accepted)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst verdict: the run's."""
    return min(verdicts, key=_VERDICTS_WORST_FIRST.index)


def _worst(item: PlannedCheck, results: Sequence[CheckResult]) -> CheckResult:
    if not results:
        return CheckResult(
            id=item.id,
            stage=item.check.stage,
            outcome=Outcome.NOT_RUN,
            message=NEVER_RAN,
            fix=f"run it again: pytest '{item.id}' --phi3-adapter=PATH",
        )
    found = min(results, key=lambda result: _WORST_FIRST.index(result.outcome))
    return replace(found, id=item.id, stage=item.check.stage)
