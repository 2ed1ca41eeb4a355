"""Run one check and write its result to the journal, even if it crashed."""

import time
import traceback
import warnings
from contextlib import AbstractContextManager

from phi3_lora_qa.errors import AdapterError, Phi3LoraQAError, escape, shortage
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import Check, CheckOutcome, conclude, errored, failed, not_run
from phi3_lora_qa.gate.gate_session import GateSession
from phi3_lora_qa.gate.plan import PlannedCheck
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.record import CheckResult

FIX_CRASH = "rerun this check alone; if it still crashes, report it with record.json"


def run_check(planned: PlannedCheck, session: GateSession) -> CheckResult:
    """Run a check in this process, write its result to the journal and return it.

    An error is never a pass: a fault of the adapter is FAILED, anything else ERROR. The result is
    written even for what is not an ``Exception`` (a panic of a native library, an interrupt).
    """
    started = time.perf_counter()
    interrupt: BaseException | None = None
    try:
        outcome = _run(planned.check, session.open_adapter(planned.adapter))
    except BaseException as error:
        outcome = _outcome_of(error)
        interrupt = error if isinstance(error, KeyboardInterrupt | SystemExit) else None
    result = CheckResult(
        id=planned.id,
        stage=planned.check.stage,
        outcome=outcome.outcome,
        message=outcome.message,
        fix=outcome.fix,
        seconds=time.perf_counter() - started,
        measured=outcome.measured,
    )
    session.journal.add_result(planned.adapter, result)
    if interrupt is not None:
        raise interrupt
    return result


def _run(check: Check, session: AdapterSession) -> CheckOutcome:
    """Run a check, unless it needs a model and the base or the adapter was refused."""
    if check.stage != "static":
        with _silenced("static"):
            refusal = session.adapter.refusal
        if refusal:
            return not_run(f"not run: {refusal}", session.adapter.refusal_fix)
    with _silenced(check.stage):
        return conclude(check.run, session)


def _silenced(stage: str) -> AbstractContextManager[object]:
    """Silence other libraries' progress bars, logs and warnings, despite the user's filters.

    The static stage uses no such library, and must not import one to silence it.
    """
    return warnings.catch_warnings(action="ignore") if stage == "static" else quiet()


def _outcome_of(error: BaseException) -> CheckOutcome:
    """Return the outcome of a check that raised an error."""
    if short := shortage(error):  # first: a check or a library may have wrapped it
        return errored(str(short), "see the message")
    match error:
        case AdapterError():
            return failed(escape(str(error), 2000), "see the message")
        case Phi3LoraQAError():
            return errored(escape(str(error), 2000), "see the message")
        case KeyboardInterrupt() | SystemExit():
            return errored("the check was interrupted", "rerun the gate")
    lines = "".join(traceback.format_exception(error, limit=-12)).splitlines()
    message = escape(f"the check crashed: {type(error).__name__}: {error}", 2000)
    return errored(message, FIX_CRASH, {"traceback": lines})
