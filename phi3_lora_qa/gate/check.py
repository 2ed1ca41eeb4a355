"""A check: a function of an adapter session that returns a `CheckOutcome`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.errors import shortage
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.record import Outcome


@dataclass(frozen=True, kw_only=True)
class CheckOutcome:
    """The result of one check's function.

    Attributes:
        outcome: Whether it passed.
        message: What was found, in one sentence.
        fix: How to fix it; empty if it passed.
        measured: The numbers behind the message.
    """

    outcome: Outcome
    message: str
    fix: str = ""
    measured: Mapping[str, Json] = field(default_factory=dict)


Measured = Mapping[str, Json] | None
CheckFunction = Callable[[AdapterSession], CheckOutcome]


def passed(message: str, measured: Measured = None) -> CheckOutcome:
    """Return the outcome of a check that passed."""
    return CheckOutcome(outcome=Outcome.PASSED, message=message, measured=measured or {})


def failed(message: str, fix: str, measured: Measured = None) -> CheckOutcome:
    """Return the outcome of a check that failed: a fault of the adapter or its libraries."""
    return _open(Outcome.FAILED, message, fix, measured)


def inconclusive(message: str, fix: str, measured: Measured = None) -> CheckOutcome:
    """Return the outcome of a check whose measurements do not decide it."""
    return _open(Outcome.INCONCLUSIVE, message, fix, measured)


def not_run(message: str, fix: str, measured: Measured = None) -> CheckOutcome:
    """Return the outcome of a check that had nothing to check."""
    return _open(Outcome.NOT_RUN, message, fix, measured)


def errored(message: str, fix: str, measured: Measured = None) -> CheckOutcome:
    """Return the outcome of a check that could not finish, for a reason other than the adapter."""
    return _open(Outcome.ERROR, message, fix, measured)


def _open(outcome: Outcome, message: str, fix: str, measured: Measured) -> CheckOutcome:
    return CheckOutcome(outcome=outcome, message=message, fix=fix, measured=measured or {})


class StopCheckError(Exception):
    """Ends a check from inside a library's callback or a context manager, with its outcome."""

    def __init__(self, outcome: CheckOutcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


def conclude(function: CheckFunction, session: AdapterSession) -> CheckOutcome:
    """Run a check's function and return its outcome; the only place that catches StopCheckError.

    Raises:
        StopCheckError: The machine ran out of a resource, so the outcome has no meaning for the
            adapter.
        Exception: Whatever the function raises.
    """
    try:
        return function(session)
    except StopCheckError as stop:
        if shortage(stop):
            raise
        return stop.outcome


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of one stage.

    Attributes:
        stage: The stage.
        name: The check's name in its id.
        run: The function that does the work.
        parameter: The part of the id in brackets after the name.
        demand: The limit and its group in words; empty without a limit.
    """

    stage: str
    name: str
    run: CheckFunction
    parameter: str = ""
    demand: str = ""

    @property
    def label(self) -> str:
        """``NAME`` or ``NAME[parameter]``."""
        return f"{self.name}[{self.parameter}]" if self.parameter else self.name


def checks_of(stage: str, *functions: CheckFunction) -> tuple[Check, ...]:
    """Return a check for each function, with the function's name."""
    return tuple(Check(stage=stage, name=function.__name__, run=function) for function in functions)


def no_lora_module() -> CheckOutcome:
    """Return the outcome of a check on LoRA modules for an adapter that has none."""
    return not_run(
        "the adapter has no LoRA module to check",
        "adapt linear modules (qkv_proj, o_proj, gate_up_proj, down_proj)",
    )
