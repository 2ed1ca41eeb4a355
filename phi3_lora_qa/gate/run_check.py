"""Run one check and write down what became of it, whatever that was."""

import time
import traceback
from collections.abc import Mapping

from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.errors import AdapterError, Phi3LoraQAError, escape, shortage
from phi3_lora_qa.gate.check import CheckFailedError
from phi3_lora_qa.gate.context import Run
from phi3_lora_qa.gate.plan import PlannedCheck
from phi3_lora_qa.record import CheckResult, Outcome

MEND_CRASH = "run this id again alone; if it still crashes, report it with record.json"


def run_check(planned: PlannedCheck, run: Run) -> CheckResult:
    """Run a check in this process, journal its result and return it.

    An error is never a pass: a fault of the adapter is FAILED, anything else ERROR. Even what is
    no ``Exception`` (a panic of a native library, an interrupt) is written down first.
    """
    started = time.perf_counter()

    def finish(
        outcome: Outcome, message: str, fix: str = "", measured: Mapping[str, Json] | None = None
    ) -> CheckResult:
        result = CheckResult(
            id=planned.id,
            stage=planned.check.stage,
            outcome=outcome,
            message=message,
            fix=fix,
            seconds=time.perf_counter() - started,
            measured=measured or {},
        )
        run.journal.add_result(planned.adapter, result)
        return result

    bench = run.bench(planned.adapter)
    try:
        if planned.check.stage != "static":
            with run.quietly("static"):
                refusal = bench.refusal()
            if refusal:
                return finish(Outcome.NOT_RUN, refusal, "mend the adapter's files first")
        with run.quietly(planned.check.stage):
            held = planned.check.run(bench)
    except BaseException as error:
        result = finish(*_told(error))
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return result
    else:
        return finish(Outcome.PASSED, held.message, measured=held.measured)


def _told(error: BaseException) -> tuple[Outcome, str, str, Mapping[str, Json]]:
    """Say what became of a check that raised: outcome, message, mend, what was measured."""
    if short := shortage(error):  # whatever a check or a library made of it, before all else
        return Outcome.ERROR, str(short), "see the message", {}
    match error:
        case CheckFailedError():
            return error.outcome, error.message, error.fix, error.measured
        case AdapterError():
            return Outcome.FAILED, escape(str(error), 2000), "see the message", {}
        case Phi3LoraQAError():
            return Outcome.ERROR, escape(str(error), 2000), "see the message", {}
        case KeyboardInterrupt() | SystemExit():
            return Outcome.ERROR, "it was interrupted", "run it again", {}
    where = traceback.format_exception(error, limit=-12)
    message = escape(f"it crashed: {type(error).__name__}: {error}", 2000)
    return Outcome.ERROR, message, MEND_CRASH, {"traceback": "".join(where).splitlines()}
