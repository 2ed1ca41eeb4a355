"""A gate run from its settings to the records: prepare, plan, copy, run the checks, decide.

The pytest plugin and `phi3_lora_qa.run_gate` both use these steps, so that both reach the same
verdict.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from phi3_lora_qa.adapter.rule_selection import selection_of
from phi3_lora_qa.gate.build_record import Reported, build_records
from phi3_lora_qa.gate.gate_session import GateSession
from phi3_lora_qa.gate.machine_settings import on_this_machine
from phi3_lora_qa.gate.memory_check import require_memory
from phi3_lora_qa.gate.plan import PlannedCheck, plan
from phi3_lora_qa.gate.prepare import AdapterJob, prepare
from phi3_lora_qa.progress import Progress, silent
from phi3_lora_qa.settings import GateSettings, with_order


@dataclass(frozen=True, kw_only=True)
class GatePlan:
    """The adapters that a run gates, and every check that must run.

    Attributes:
        settings: The settings of the run, with the order that was drawn for it.
        jobs: The adapters, with their bases and items.
        planned: Every check.
    """

    settings: GateSettings
    jobs: Sequence[AdapterJob]
    planned: Sequence[PlannedCheck]


def plan_gate(settings: GateSettings) -> GatePlan:
    """Read all inputs that the settings name, and list the checks.

    Raises:
        InputError: A path, base, suite, metric or thresholds file or a device cannot be used.
        MachineError: A base does not fit into the memory.
        MissingDependencyError: A setting needs a package that is not installed.
    """
    settings = on_this_machine(with_order(settings))
    jobs = prepare(settings)
    require_memory(jobs, settings)
    return plan_jobs(settings, jobs)


def plan_jobs(settings: GateSettings, jobs: Sequence[AdapterJob]) -> GatePlan:
    """List the checks of prepared jobs.

    Raises:
        InputError: Two checks have the same id.
    """
    adapters = [(job.name, job.limits) for job in jobs]
    planned = plan(adapters, settings.stage, selection_of(settings))
    return GatePlan(settings=settings, jobs=jobs, planned=planned)


@dataclass(kw_only=True)
class GateRun:
    """One process's run of chosen checks.

    Attributes:
        plan: What is gated.
        chosen: The checks that must run.
        session: Runs them.
    """

    plan: GatePlan
    chosen: Sequence[PlannedCheck]
    session: GateSession
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _clock: float = field(default_factory=time.perf_counter)

    @classmethod
    def start(
        cls,
        gate_plan: GatePlan,
        chosen: Iterable[PlannedCheck],
        folder: Path,
        on_progress: Progress = silent,
    ) -> "GateRun":
        """Start a run; no check runs yet.

        Args:
            gate_plan: What is gated.
            chosen: The checks that must run.
            folder: The private folder of the run, with the copies of the adapters.
            on_progress: Shows the progress of long phases.
        """
        chosen = tuple(chosen)
        stages = frozenset(planned.check.stage for planned in chosen)
        session = GateSession(gate_plan.settings, gate_plan.jobs, folder, stages, on_progress)
        return cls(plan=gate_plan, chosen=chosen, session=session)

    @property
    def is_partial(self) -> bool:
        """Whether only some of the planned checks were chosen."""
        return len(self.chosen) < len(self.plan.planned)

    def finish(self) -> list[Reported]:
        """Release the models, decide every adapter's verdict, and return its record."""
        self.session.models.release()
        return build_records(
            self.session,
            chosen=self.chosen,
            partial=self.is_partial,
            started=self._started.isoformat(timespec="seconds"),
            seconds=time.perf_counter() - self._clock,
        )
