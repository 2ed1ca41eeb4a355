"""The gate's checks as pytest items, under a virtual collector without a file.

The items are not Python test functions. So the user's ``python_files``, ``python_functions`` and
``python_classes`` cannot filter them out, a conftest's fixture cannot substitute another adapter,
and no autouse fixture runs for them (docs/decisions/0001 and 0002).
"""

from collections.abc import Iterable
from typing import Any

import pytest

from phi3_lora_qa.errors import Phi3LoraQAError
from phi3_lora_qa.gate.gate_steps import GateRun
from phi3_lora_qa.gate.plan import ROOT, PlannedCheck
from phi3_lora_qa.gate.run_check import run_check
from phi3_lora_qa.pytest_plugin.virtual_items import VirtualItem
from phi3_lora_qa.record import Outcome


class CheckFailure(Exception):  # noqa: N818 - it is shown, not caught
    """The check's message and fix, which pytest shows instead of a traceback."""


class CheckItem(VirtualItem):
    """One check as a pytest item."""

    def __init__(self, *, planned: PlannedCheck, run: GateRun, **node: Any) -> None:
        super().__init__(**node)
        self._planned, self._run = planned, run

    def runtest(self) -> None:
        """Run the check; its result is in the journal before pytest reports it."""
        result = run_check(self._planned, self._run.session)
        match result.outcome:
            case Outcome.PASSED:
                return
            case Outcome.NOT_RUN:
                pytest.skip(result.message)
            case Outcome.INCONCLUSIVE if self._run.plan.settings.allow_inconclusive:
                return
        fix = f"\n  fix: {result.fix}" if result.fix else ""
        raise CheckFailure(f"{result.outcome.value.upper()}: {result.message}{fix}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show a check's message without a traceback."""
        if isinstance(excinfo.value, CheckFailure | Phi3LoraQAError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class StageCollector(pytest.Collector):
    """One stage of the gate."""

    def __init__(self, *, run: GateRun, **node: Any) -> None:
        super().__init__(**node)
        self._run = run

    def collect(self) -> Iterable[pytest.Item]:
        """Yield the chosen checks of this stage."""
        for planned in self._run.chosen:
            if planned.check.stage == self.name:
                name = planned.id.removeprefix(f"{ROOT}::{self.name}::")
                yield CheckItem.from_parent(
                    self, name=name, nodeid=planned.id, planned=planned, run=self._run
                )


class GateCollector(pytest.Collector):
    """The virtual root ``phi3``."""

    def __init__(self, *, run: GateRun, **node: Any) -> None:
        super().__init__(**node)
        self._run = run

    def collect(self) -> Iterable[pytest.Collector]:
        """Yield the stages that have chosen checks."""
        for stage in dict.fromkeys(planned.check.stage for planned in self._run.chosen):
            yield StageCollector.from_parent(
                self, name=stage, nodeid=f"{ROOT}::{stage}", run=self._run
            )
