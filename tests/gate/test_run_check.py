"""A check on a machine that runs out of a resource is an error: neither a failure nor a pass."""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from phi3_lora_qa.errors import AdapterError, shortage
from phi3_lora_qa.gate.check import Check, StopCheckError, failed, passed
from phi3_lora_qa.gate.gate_session import GateSession
from phi3_lora_qa.gate.journal import Journal
from phi3_lora_qa.gate.plan import PlannedCheck
from phi3_lora_qa.gate.run_check import run_check
from phi3_lora_qa.gate.verdict import AdapterVerdict, decide_verdict
from phi3_lora_qa.record import CheckResult, Outcome, Verdict


def of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def led_to(cause: Exception, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


def met_by(error: Exception, handled: Exception) -> Exception:
    handled.__context__ = error
    return handled


def stopped() -> StopCheckError:
    return StopCheckError(failed("bad", "a fix"))


SHORT: dict[str, Callable[[], Exception]] = {
    "memory": MemoryError,
    "the system's memory": lambda: of(errno.ENOMEM),
    "handles": lambda: of(errno.EMFILE),
    "the system's handles": lambda: of(errno.ENFILE),
    "processes": lambda: of(errno.EAGAIN),
    "disk space": lambda: of(errno.ENOSPC),
    "torch's memory": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate "
                                           "memory: you tried to allocate 4 bytes."),
    "threads": lambda: RuntimeError("can't start new thread"),
    "a library's file": lambda: ImportError("libx.so: cannot open shared object file: Too many "
                                            "open files"),
    "stack": lambda: RecursionError("maximum recursion depth exceeded"),
    "an adapter's error by memory": lambda: led_to(MemoryError(), AdapterError("bad; save it")),
    "a failed check by handles": lambda: led_to(of(errno.EMFILE), stopped()),
    "two steps away": lambda: led_to(met_by(MemoryError(), ValueError("x")), stopped()),
}  # fmt: skip
OWN: dict[str, tuple[Callable[[], Exception], Outcome]] = {
    "a failed check": (stopped, Outcome.FAILED),
    "an adapter's error": (lambda: AdapterError("bad; save it"), Outcome.FAILED),
    "an adapter's error by a missing file": (
        lambda: led_to(of(errno.ENOENT), AdapterError("bad; save it")), Outcome.FAILED
    ),
    "nested too deeply": (
        lambda: met_by(RecursionError(), AdapterError("too deep; save it")), Outcome.FAILED
    ),
    "a crash": (lambda: ZeroDivisionError("x"), Outcome.ERROR),
}  # fmt: skip


PLANNED = PlannedCheck(
    id="phi3::static::x", check=Check(stage="static", name="x", run=lambda _: passed("")), adapter=0
)


def outcome_of(error: BaseException, journal: Journal) -> tuple[CheckResult, AdapterVerdict]:
    def fail(session: object) -> Any:
        raise error

    planned = replace(PLANNED, check=replace(PLANNED.check, run=fail))
    session = SimpleNamespace(journal=journal, open_adapter=lambda _: None)
    result = run_check(planned, cast("GateSession", session))
    return result, decide_verdict([planned], [result], partial=False, allow_inconclusive=False)


@pytest.mark.parametrize("kind", SHORT)
def test_a_shortage_is_an_error_and_the_run_is_incomplete(kind: str, tmp_path: Path) -> None:
    result, judged = outcome_of(SHORT[kind](), Journal(folder=tmp_path))
    assert result.outcome is Outcome.ERROR
    assert re.match(r"the machine ran out of|Python's recursion limit was reached", result.message)
    assert "; " in result.message
    assert judged.verdict is Verdict.INCOMPLETE


@pytest.mark.parametrize("kind", OWN)
def test_other_errors_have_their_own_outcome(kind: str, tmp_path: Path) -> None:
    error, outcome = OWN[kind]
    assert shortage(error()) is None
    assert outcome_of(error(), Journal(folder=tmp_path))[0].outcome is outcome


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_recorded_and_raised(kind: type[BaseException], tmp_path: Path) -> None:
    journal = Journal(folder=tmp_path)
    with pytest.raises(kind):
        outcome_of(kind(), journal)
    ((adapter, result),) = journal.results()
    assert (adapter, result.id, result.outcome) == (0, PLANNED.id, Outcome.ERROR)


def test_a_crash_has_its_traceback_and_a_fix(tmp_path: Path) -> None:
    result, _ = outcome_of(ZeroDivisionError("x"), Journal(folder=tmp_path))
    assert result.message == "the check crashed: ZeroDivisionError: x"
    assert "raise error" in "".join(result.measured["traceback"])
    assert result.fix


def test_a_refused_adapter_is_run_by_the_static_stage_only(tmp_path: Path) -> None:
    def open_adapter(index: int) -> Any:
        return SimpleNamespace(
            adapter=SimpleNamespace(refusal="refused (weights-nan)", refusal_fix="fix it")
        )

    journal = Journal(folder=tmp_path)
    session = cast("GateSession", SimpleNamespace(journal=journal, open_adapter=open_adapter))
    for stage, expected in (("static", Outcome.PASSED), ("math", Outcome.NOT_RUN)):
        planned = replace(PLANNED, check=replace(PLANNED.check, stage=stage))
        result = run_check(planned, session)
        assert result.outcome is expected
    assert (result.message, result.fix) == ("not run: refused (weights-nan)", "fix it")
    assert len(journal.results()) == 2
