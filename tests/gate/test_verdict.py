"""The verdict is that of the worst required check, and never better."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.gate.check import Check, passed
from phi3_lora_qa.gate.plan import PlannedCheck
from phi3_lora_qa.gate.verdict import decide_verdict, worst
from phi3_lora_qa.record import CheckResult, Outcome, Verdict

IDS = ("phi3::static::files", "phi3::math::a", "phi3::quality::loss[target]")


def planned(*ids: str) -> tuple[PlannedCheck, ...]:
    return tuple(
        PlannedCheck(
            id=i,
            adapter=0,
            check=Check(
                stage=i.split("::")[1], name=i.split("::")[2], run=lambda session: passed("")
            ),
        )
        for i in ids
    )


def result(identifier: str, outcome: Outcome) -> CheckResult:
    return CheckResult(id=identifier, stage="static", outcome=outcome, message=f"said {outcome}")


def verdict_of(*outcomes: Outcome | None, **options: bool) -> Verdict:
    results = [result(i, o) for i, o in zip(IDS, outcomes, strict=True) if o is not None]
    given_options = {"partial": False, "allow_inconclusive": False, **options}
    return decide_verdict(planned(*IDS), results, **given_options).verdict


P, F, U, E, N = (
    Outcome.PASSED, Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.ERROR, Outcome.NOT_RUN,
)  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ((P, P, P), Verdict.PASS),
        ((P, F, P), Verdict.FAIL),
        ((F, N, N), Verdict.FAIL),
        ((P, P, U), Verdict.INCONCLUSIVE),
        ((P, U, E), Verdict.INCOMPLETE),
        ((P, P, N), Verdict.INCOMPLETE),
        ((P, P, None), Verdict.INCOMPLETE),
        ((None, None, None), Verdict.INCOMPLETE),
    ],
)
def test_the_worst_outcome_decides(outcomes: tuple[Outcome | None, ...], verdict: Verdict) -> None:
    assert verdict_of(*outcomes) is verdict


def test_the_reason_of_a_pass_counts_the_warnings_and_names_the_first() -> None:
    finding = {"rule": "tensors-target-idle", "severity": "warning", "message": "only o_proj"}
    warned = CheckResult(
        id=IDS[0],
        stage="static",
        outcome=P,
        message="",
        measured={"findings": [finding], "warnings": 1},
    )
    found = decide_verdict(
        planned(*IDS),
        [warned, *(result(i, P) for i in IDS[1:])],
        partial=False,
        allow_inconclusive=False,
    )
    assert found.verdict is Verdict.PASS
    assert found.accepted
    assert found.reason == ("all 3 checks passed, with 1 warning: tensors-target-idle: only o_proj")


@given(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(Outcome)), max_size=12))
def test_pass_means_that_every_check_ran_and_passed(
    results: list[tuple[str, Outcome]],
) -> None:
    decided = decide_verdict(
        planned(*IDS),
        [result(i, o) for i, o in results],
        partial=False,
        allow_inconclusive=False,
    )
    clean = {i for i, _ in results} == set(IDS) and {o for _, o in results} == {Outcome.PASSED}
    assert (decided.verdict is Verdict.PASS) == clean
    assert decided.accepted == clean


def test_one_check_is_not_called_all_checks() -> None:
    done = [result(IDS[0], Outcome.PASSED)]
    found = decide_verdict(planned(IDS[0]), done, partial=False, allow_inconclusive=False)
    assert (found.verdict, found.reason) == (Verdict.PASS, "the only check passed")


def test_no_selected_check_is_not_a_pass() -> None:
    decided = decide_verdict((), [], partial=False, allow_inconclusive=True)
    assert decided.verdict is Verdict.INCOMPLETE
    assert not decided.accepted


def test_a_rerun_that_passes_does_not_undo_a_failure() -> None:
    results = [result(i, P) for i in IDS] + [result(IDS[0], F)] + [result(IDS[0], P)]
    decided = decide_verdict(planned(*IDS), results, partial=False, allow_inconclusive=False)
    assert decided.verdict is Verdict.FAIL


def test_selected_ids_are_partial_whatever_their_outcome() -> None:
    assert verdict_of(P, P, P, partial=True) is Verdict.PARTIAL
    assert verdict_of(P, F, P, partial=True) is Verdict.PARTIAL


def test_inconclusive_is_accepted_only_when_allowed() -> None:
    for allowed in (True, False):
        decided = decide_verdict(
            planned(*IDS),
            [result(i, U) for i in IDS],
            partial=False,
            allow_inconclusive=allowed,
        )
        assert decided.accepted is allowed


def test_the_run_is_as_bad_as_its_worst_adapter() -> None:
    assert worst([Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]) is Verdict.FAIL
    assert worst([Verdict.PASS, Verdict.INCOMPLETE]) is Verdict.INCOMPLETE
