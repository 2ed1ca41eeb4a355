"""Outcomes of checks, and the exception that ends a check from inside a callback."""

from typing import Any, cast

import pytest

from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import (
    Check,
    CheckOutcome,
    StopCheckError,
    checks_of,
    conclude,
    errored,
    failed,
    inconclusive,
    no_lora_module,
    not_run,
    passed,
)
from phi3_lora_qa.record import Outcome

SESSION = cast("AdapterSession", None)


def test_each_constructor_has_its_outcome() -> None:
    made = [make("m", "f", {"n": 1}) for make in (failed, inconclusive, not_run, errored)]
    assert [outcome.outcome for outcome in made] == [
        Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.NOT_RUN, Outcome.ERROR,
    ]  # fmt: skip
    assert {(outcome.message, outcome.fix) for outcome in made} == {("m", "f")}
    assert passed("m") == CheckOutcome(outcome=Outcome.PASSED, message="m")
    assert no_lora_module().outcome is Outcome.NOT_RUN


def test_a_stopped_check_has_the_outcome_that_stopped_it() -> None:
    outcome = failed("bad", "a fix")

    def stop(session: AdapterSession) -> CheckOutcome:
        raise StopCheckError(outcome)

    assert conclude(stop, SESSION) is outcome


def test_a_shortage_behind_a_stopped_check_is_raised() -> None:
    """What a library made of it says nothing about the adapter."""

    def stop(session: AdapterSession) -> CheckOutcome:
        raise StopCheckError(failed("bad", "a fix")) from MemoryError()

    with pytest.raises(StopCheckError):
        conclude(stop, SESSION)


def test_other_errors_are_raised() -> None:
    def crash(session: AdapterSession) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        conclude(crash, SESSION)


def test_checks_are_named_as_their_functions() -> None:
    def rank_is_small(session: AdapterSession) -> CheckOutcome:
        return passed("")

    (check,) = checks_of("math", rank_is_small)
    assert (check.stage, check.label) == ("math", "rank_is_small")
    assert Check(stage="x", name="loss", run=rank_is_small, parameter="a").label == "loss[a]"
