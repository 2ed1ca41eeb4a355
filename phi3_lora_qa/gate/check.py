"""What a check is: a function that returns what it measured, or raises with message and mend."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.errors import Phi3LoraQAError
from phi3_lora_qa.record import Outcome

if TYPE_CHECKING:
    from phi3_lora_qa.gate.bench import Bench


@dataclass(frozen=True, kw_only=True)
class Held:
    """A check that held: what it saw, in one sentence, and the numbers behind it."""

    message: str
    measured: Mapping[str, Json] = field(default_factory=dict)


class CheckFailedError(Phi3LoraQAError, AssertionError):
    """A check did not hold, or could not be decided; the runner writes it into the journal."""

    def __init__(
        self,
        message: str,
        fix: str,
        measured: Mapping[str, Json] | None = None,
        outcome: Outcome = Outcome.FAILED,
    ) -> None:
        super().__init__(message)
        self.message, self.fix, self.outcome = message, fix, outcome
        self.measured = measured or {}


CheckFunction = Callable[["Bench"], Held]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of one stage. ``parameter`` stands in brackets behind its name.

    ``demand`` says in words what is asked of which group, where that hangs on the limits.
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


def check_of(stage: str, function: CheckFunction) -> Check:
    """Make a check of a plain function; its name is the function's."""
    return Check(stage=stage, name=function.__name__, run=function)
