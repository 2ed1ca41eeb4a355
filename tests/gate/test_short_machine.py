"""A check that meets a machine short of something is an error: no fault of the adapter, no pass."""

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from phi3_lora_qa.errors import AdapterError, shortage
from phi3_lora_qa.gate.check import Check, CheckFailedError
from phi3_lora_qa.gate.context import Run
from phi3_lora_qa.gate.journal import Journal
from phi3_lora_qa.gate.plan import PlannedCheck
from phi3_lora_qa.gate.run_check import run_check
from phi3_lora_qa.gate.verdict import judge
from phi3_lora_qa.record import Outcome, Verdict


def of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def led_to(cause: Exception, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


def met_by(error: Exception, handled: Exception) -> Exception:
    handled.__context__ = error
    return handled


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
    "a failed check by handles": lambda: led_to(of(errno.EMFILE), CheckFailedError("bad", "mend")),
    "two steps away": lambda: led_to(
        met_by(MemoryError(), ValueError("x")), CheckFailedError("bad", "mend")
    ),
}  # fmt: skip
OWN: dict[str, tuple[Callable[[], Exception], Outcome]] = {
    "a failed check": (lambda: CheckFailedError("bad", "mend"), Outcome.FAILED),
    "an adapter's error": (lambda: AdapterError("bad; save it"), Outcome.FAILED),
    "an adapter's error by a missing file": (
        lambda: led_to(of(errno.ENOENT), AdapterError("bad; save it")), Outcome.FAILED
    ),
    "nested too deeply": (
        lambda: met_by(RecursionError(), AdapterError("too deep; save it")), Outcome.FAILED
    ),
    "a crash": (lambda: ZeroDivisionError("x"), Outcome.ERROR),
}  # fmt: skip


def outcome_of(error: Exception, journal: Journal) -> Any:
    def fail(bench: object) -> Any:
        raise error

    check = Check(stage="static", name="x", run=fail)
    planned = PlannedCheck(id="phi3::static::x", check=check, adapter=0)
    quiet = cast("Any", pytest.MonkeyPatch.context)
    run = SimpleNamespace(journal=journal, bench=lambda _: None, quietly=lambda _: quiet())
    result = run_check(planned, cast("Run", run))
    return result, judge([planned], [result], partial=False, allow_inconclusive=False)


@pytest.mark.parametrize("kind", SHORT)
def test_it_is_an_error_and_the_run_incomplete(kind: str, tmp_path: Any) -> None:
    result, judged = outcome_of(SHORT[kind](), Journal(folder=tmp_path))
    assert result.outcome is Outcome.ERROR
    assert " short" in result.message
    assert "; " in result.message
    assert judged.verdict is Verdict.INCOMPLETE


@pytest.mark.parametrize("kind", OWN)
def test_other_errors_count_as_they_did(kind: str, tmp_path: Any) -> None:
    error, outcome = OWN[kind]
    assert shortage(error()) is None
    assert outcome_of(error(), Journal(folder=tmp_path))[0].outcome is outcome
