"""The verdict is that of the worst required check, and never better."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.gate.check import Check, Held
from phi3_lora_qa.gate.plan import PlannedCheck, choose, plan
from phi3_lora_qa.gate.verdict import judge, worst
from phi3_lora_qa.record import CheckResult, Outcome, Verdict

IDS = ("phi3::static::files", "phi3::math::a", "phi3::quality::loss[target]")


def planned(*ids: str) -> tuple[PlannedCheck, ...]:
    return tuple(
        PlannedCheck(
            id=i,
            adapter=0,
            check=Check(
                stage=i.split("::")[1], name=i.split("::")[2], run=lambda bench: Held(message="")
            ),
        )
        for i in ids
    )


def result(identifier: str, outcome: Outcome) -> CheckResult:
    return CheckResult(id=identifier, stage="static", outcome=outcome, message=f"said {outcome}")


def verdict_of(*outcomes: Outcome | None, **options: bool) -> Verdict:
    results = [result(i, o) for i, o in zip(IDS, outcomes, strict=True) if o is not None]
    given_options = {"partial": False, "allow_inconclusive": False, **options}
    return judge(planned(*IDS), results, **given_options).verdict


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


@given(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(Outcome)), max_size=12))
def test_pass_means_that_every_check_ran_and_passed(
    results: list[tuple[str, Outcome]],
) -> None:
    judgement = judge(
        planned(*IDS),
        [result(i, o) for i, o in results],
        partial=False,
        allow_inconclusive=False,
    )
    clean = {i for i, _ in results} == set(IDS) and {o for _, o in results} == {Outcome.PASSED}
    assert (judgement.verdict is Verdict.PASS) == clean
    assert judgement.accepted == clean


def test_no_selected_check_is_not_a_pass() -> None:
    judgement = judge((), [], partial=False, allow_inconclusive=True)
    assert judgement.verdict is Verdict.INCOMPLETE
    assert not judgement.accepted


def test_a_rerun_that_passes_does_not_undo_a_failure() -> None:
    results = [result(i, P) for i in IDS] + [result(IDS[0], F)] + [result(IDS[0], P)]
    judgement = judge(planned(*IDS), results, partial=False, allow_inconclusive=False)
    assert judgement.verdict is Verdict.FAIL


def test_selected_ids_are_always_partial() -> None:
    assert verdict_of(P, P, P, partial=True) is Verdict.PARTIAL
    assert verdict_of(P, F, P, partial=True) is Verdict.PARTIAL


def test_inconclusive_is_accepted_only_when_allowed() -> None:
    for allowed in (True, False):
        judgement = judge(
            planned(*IDS),
            [result(i, U) for i in IDS],
            partial=False,
            allow_inconclusive=allowed,
        )
        assert judgement.accepted is allowed


def test_the_verdict_of_the_run_is_that_of_its_worst_adapter() -> None:
    assert worst([Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]) is Verdict.FAIL
    assert worst([Verdict.PASS, Verdict.INCOMPLETE]) is Verdict.INCOMPLETE


def test_ids_of_several_adapters_contain_their_names() -> None:
    ids = [p.id for p in plan([("a", ()), ("b", ())], ("static", "export"))]
    assert "phi3::static::files[a]" in ids
    assert "phi3::export::exported_model_matches[b]" in ids
    assert len(set(ids)) == len(ids)


def limit(group: str, rule: str = "no_worse_than", against: str = "base") -> Limit:
    return Limit(group=group, metric="loss", rule=rule, value=0.1, against=against)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            [limit("target", against="baseline")],
            [limit("target,baseline")],
            r"id phi3::quality::loss\[target,baseline\]: loss no worse than the baseline by more "
            r"than 0.1, of the group 'target'; and loss no worse than the base by more than 0.1, "
            r"of the group 'target,baseline'; give a group another name",
        ),
        (
            [limit("a", rule="at_least"), limit("a", rule="at_most")],
            [limit("a,at_most")],
            "loss at most 0.1, of the group 'a'; and loss no worse than .*, of the group 'a,at_m",
        ),
    ],
)
def test_two_limits_whose_checks_have_one_id_are_refused(
    first: list[Limit], second: list[Limit], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        plan([("a", [*first, *second])], ("quality",))
    apart = plan([("a", first), ("b", second)], ("quality",))
    assert len({p.id for p in apart}) == len(apart)
    plan([("a", [*first, *second])], ("static",))  # without such checks


def test_checks_of_two_adapters_with_brackets_in_their_names_are_distinct() -> None:
    adapters = [("c", [limit("a][b")]), ("b][c", [limit("a")])]
    words = r"id phi3::quality::loss\[a\]\[b\]\[c\]: .* 'a\]\[b' \(adapter 'c'\); and .*"
    with pytest.raises(
        InputError, match=words + r"'b\]\[c'\); give a group or an adapter's folder"
    ):
        plan(adapters, ("quality",))
    plan([("c", [limit("a][b")]), ("b", [limit("a")])], ("quality",))


def test_a_stage_or_a_name_selects_all_checks_below_it() -> None:
    all_of = plan([("a", ())], ("static", "math"))
    assert {p.check.stage for p in choose(all_of, ["phi3::math"])} == {"math"}
    assert choose(all_of, ["phi3"]) == all_of
    with pytest.raises(InputError, match="no check has the id"):
        choose(all_of, ["phi3::math::nothing"])
