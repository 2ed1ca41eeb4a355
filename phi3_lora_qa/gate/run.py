"""Run one check and write down what became of it, whatever that was."""

import time
import traceback
from collections.abc import Mapping

from phi3_lora_qa.errors import AdapterError, Phi3LoraQAError, escape
from phi3_lora_qa.gate.check import CheckFailedError
from phi3_lora_qa.gate.context import Run
from phi3_lora_qa.gate.plan import PlannedCheck
from phi3_lora_qa.record import CheckResult, Json, Outcome

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
    except CheckFailedError as failure:
        return finish(failure.outcome, failure.message, failure.fix, failure.measured)
    except AdapterError as error:
        return finish(Outcome.FAILED, escape(str(error), 2000), "see the message")
    except Phi3LoraQAError as error:
        return finish(Outcome.ERROR, escape(str(error), 2000), "see the message")
    except (KeyboardInterrupt, SystemExit):
        finish(Outcome.ERROR, "it was interrupted", "run it again")
        raise
    except BaseException as error:
        where = traceback.format_exc(limit=-12)
        return finish(
            Outcome.ERROR,
            escape(f"it crashed: {type(error).__name__}: {error}", 2000),
            MEND_CRASH,
            {"traceback": where.splitlines()},
        )
    else:
        return finish(Outcome.PASSED, held.message, measured=held.measured)
