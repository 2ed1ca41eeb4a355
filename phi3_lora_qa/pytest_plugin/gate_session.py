"""The gate inside pytest: a virtual collector, items that nothing can replace, and a guard.

The guard compares what ran with what must. The items are no Python test functions: so the user's
``python_files``, ``python_functions`` and ``python_classes`` cannot filter them away, a conftest's
fixture cannot slip another adapter in, and no autouse fixture touches them
(docs/decisions/0001 and 0002).
"""

import json
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.rule_selection import selection_of
from phi3_lora_qa.errors import Phi3LoraQAError, escape
from phi3_lora_qa.gate.build_record import Reported, build_records
from phi3_lora_qa.gate.context import Run
from phi3_lora_qa.gate.journal import Journal
from phi3_lora_qa.gate.plan import ROOT, PlannedCheck, choose, plan
from phi3_lora_qa.gate.prepare import AdapterJob, handed_over, prepare
from phi3_lora_qa.gate.private_copy import private_copies
from phi3_lora_qa.gate.run_check import run_check
from phi3_lora_qa.gate.verdict import worst
from phi3_lora_qa.pytest_plugin.fixtures import RUN
from phi3_lora_qa.pytest_plugin.progress_line import ProgressLine
from phi3_lora_qa.pytest_plugin.report_target import Reports
from phi3_lora_qa.pytest_plugin.virtual_items import VirtualItem, hang_in_front, take_ids
from phi3_lora_qa.record import Outcome
from phi3_lora_qa.settings import DRAWN, GateSettings, with_order
from phi3_lora_qa.signals import EndedError, EndSignals

WORKER_INPUT = "phi3_lora_qa"


class CheckFailure(Exception):  # noqa: N818  it is shown, not caught
    """Shown by pytest in place of a traceback: the check's own message and mend."""


class CheckItem(VirtualItem):
    """One check as a pytest item."""

    planned: PlannedCheck
    gate: "Gate"

    def runtest(self) -> None:
        """Run the check; its result goes into the journal before pytest hears of it."""
        result = run_check(self.planned, self.gate.run)
        match result.outcome:
            case Outcome.PASSED:
                return
            case Outcome.NOT_RUN:
                pytest.skip(result.message)
            case Outcome.INCONCLUSIVE if self.gate.settings.allow_inconclusive:
                return
        mend = f"\n  mend: {result.fix}" if result.fix else ""
        raise CheckFailure(f"{result.outcome.value.upper()}: {result.message}{mend}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show a check's message without a traceback."""
        if isinstance(excinfo.value, CheckFailure | Phi3LoraQAError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class StageCollector(pytest.Collector):
    """One stage of the gate."""

    gate: "Gate"

    def collect(self) -> Iterable[pytest.Item]:
        """Yield the planned checks of this stage."""
        for planned in self.gate.chosen:
            if planned.check.stage == self.name:
                name = planned.id.removeprefix(f"{ROOT}::{self.name}::")
                item: CheckItem = CheckItem.from_parent(self, name=name, nodeid=planned.id)
                item.planned, item.gate = planned, self.gate
                yield item


class GateCollector(pytest.Collector):
    """The virtual root ``phi3``, which no file stands for."""

    gate: "Gate"

    def collect(self) -> Iterable[pytest.Collector]:
        """Yield the stages that have chosen checks."""
        for stage in dict.fromkeys(planned.check.stage for planned in self.gate.chosen):
            node: StageCollector = StageCollector.from_parent(
                self, name=stage, nodeid=f"{ROOT}::{stage}"
            )
            node.gate = self.gate
            yield node


@dataclass(eq=False)  # pluggy keeps plugins in sets
class Gate:
    """The hooks of a session that gates adapters."""

    settings: GateSettings
    planned: Sequence[PlannedCheck]
    chosen: Sequence[PlannedCheck]
    run: Run
    started: datetime
    clock: float
    reports: Reports | None
    """None in a process of xdist, which judges nothing."""
    signals: EndSignals
    only_listed: bool = False
    """Whether the user asked for the list of tests, so that nothing is run or judged."""
    reported: list[Reported] = field(default_factory=list)
    unwritten: str = ""
    """Why the reports could not be written; empty when they were."""

    @property
    def accepted(self) -> bool:
        """Whether there is a verdict, every adapter was accepted, and the report was written."""
        accepted = [reported.accepted for reported in self.reported]
        return bool(accepted) and all(accepted) and not self.unwritten

    @property
    def partial(self) -> bool:
        """Whether only chosen ids are run."""
        return len(self.chosen) < len(self.planned)

    @property
    def is_worker(self) -> bool:
        """Whether another process started the run, and will judge."""
        return self.reports is None

    @classmethod
    def begin(
        cls,
        config: pytest.Config,
        settings: GateSettings,
        reports: Reports | None,
        *,
        only_listed: bool,
    ) -> "Gate":
        """Find out what must run; in the process that starts the run, copy the adapters too.

        Args:
            config: pytest's.
            settings: Of this run.
            reports: Where the reports go, where that was claimed already.
            only_listed: Nothing is run or judged.
        """
        leaving, signals = ExitStack(), EndSignals()
        config.add_cleanup(leaving.close)
        leaving.callback(signals.release)
        signals.catch()
        given = getattr(config, "workerinput", {}).get(WORKER_INPUT)
        ids, rest = take_ids(config.args, ROOT)
        if ids or settings.only:
            config.args = rest if ids else []
        if given is None:
            settings = with_order(settings)
            targets = prepare(settings)
            planned = _plan(targets, settings)
            chosen = choose(planned, ids) if ids else planned
            if reports is None:
                reports = Reports(settings, config.invocation_params.dir)
                if not only_listed:
                    reports.claim(partial=len(chosen) < len(planned))
            folder = leaving.enter_context(private_copies(targets))
        else:
            reports = None  # the process that started the run has them
            handed = json.loads(given)
            settings = replace(settings, order=handed["order"])
            folder = Path(handed["folder"])
            targets = handed_over(folder)
            planned = _plan(targets, settings)
            chosen = tuple(p for p in planned if p.id in set(handed["ids"]))
        run = Run(
            settings=settings,
            targets=targets,
            folder=folder,
            journal=Journal(folder=folder),
            stages=frozenset(p.check.stage for p in chosen),
            progress=ProgressLine(config),
        )
        config.stash[RUN] = run
        return cls(
            settings=settings,
            planned=planned,
            chosen=chosen,
            run=run,
            started=datetime.now(UTC),
            clock=time.perf_counter(),
            reports=reports,
            signals=signals,
            only_listed=only_listed,
        )

    # Collection

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Hang the virtual collector into the session, in front of the user's own tests."""
        report = yield
        if isinstance(collector, pytest.Session):
            node: GateCollector = GateCollector.from_parent(collector, name=ROOT, nodeid=ROOT)
            node.gate = self
            return hang_in_front(report, node)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Put the gate's items first and in their order, whatever another plugin shuffled.

        First, so that the base is scored before a user's test can touch a shared model.
        """
        yield
        order = {planned.id: number for number, planned in enumerate(self.chosen)}
        items.sort(key=lambda item: order.get(item.nodeid, len(order)))

    # xdist

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where the adapters' copies and the journal are, and what was chosen."""
        handed = {
            "folder": str(self.run.folder),
            "ids": [planned.id for planned in self.chosen],
            "order": self.settings.order,
        }
        node.workerinput[WORKER_INPUT] = json.dumps(handed)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Give all checks to one worker, so that the base is loaded once; the rest goes on."""
        if config.getoption("dist") != "load":
            return None
        from phi3_lora_qa.pytest_plugin.xdist_scheduling import GateOnOneWorker

        return GateOnOneWorker(config, log)

    # Running and judging

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge when the loop has ended, however it ended.

        Later is too late: pytest takes the exit status from ``testsfailed`` right after the loop.
        """
        try:
            return (yield)
        except EndedError as ended:
            # pytest shows where it was raised, and some places of the interpreter have no line.
            raise pytest.exit.Exception(str(ended)) from None
        finally:
            if not self.only_listed:
                self._judge(session)

    def _judge(self, session: pytest.Session) -> None:
        if self.reports is None:
            return
        self.run.release_base()
        with self.signals.deferred():
            try:
                self.reported = build_records(
                    self.run,
                    chosen=self.chosen,
                    partial=self.partial,
                    started=self.started.isoformat(timespec="seconds"),
                    seconds=time.perf_counter() - self.clock,
                )
                self.reports.write(self.reported)
            except (Phi3LoraQAError, OSError) as error:
                self.unwritten = escape(str(error), 2_000)
                self.reports.end(self.unwritten)
            if not self.accepted:
                session.testsfailed += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Say why there is no verdict, where there is none, and by what the session was ended."""
        if self.signals.received:
            session.exitstatus = exitstatus = self.signals.status
        if self.reports and not self.only_listed and not self.reported and not self.unwritten:
            self.reports.end(f"pytest ended before the checks, with exit status {exitstatus}")

    # Words for people

    def pytest_report_header(self) -> list[str]:
        """Say what is gated, against what, and where each setting came from."""
        lines = []
        for index, target in enumerate(self.run.targets):
            base = escape(target.base.id, 200) if target.base else "none"
            count = sum(planned.adapter == index for planned in self.chosen)
            lines.append(
                f"phi3-lora-qa: adapter {target.name}, base {base}, {len(target.items)} items, "
                f"{count} checks"
            )
        sources = self.settings.sources.items()
        chosen = {k: s for k, s in sources if s not in ("default", DRAWN)}
        if chosen:
            lines.append(
                "phi3-lora-qa: "
                + ", ".join(f"{name} from {escape(s, 300)}" for name, s in chosen.items())
            )
        return lines

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say the verdict, the reason and where the report is."""
        if not self.reported and not self.unwritten:
            return
        terminalreporter.section("adapter gate")
        folders = self.reports.folders if self.reports else ()
        for reported, folder in zip(self.reported, folders, strict=False):  # none, if no verdict
            record = reported.record
            mark = {"green": True} if reported.accepted else {"red": True}
            terminalreporter.write(f"{record.verdict}", bold=True, **mark)
            terminalreporter.write(f" {record.adapter.name}: {record.reason}\n")
            if not self.unwritten:
                terminalreporter.write_line(f"  report: {folder / 'report.html'}")
        if self.unwritten:
            terminalreporter.write_line(f"no report: {self.unwritten}", red=True)
        if len(self.reported) > 1:
            verdict = worst([reported.record.verdict for reported in self.reported])
            terminalreporter.write_line(f"{verdict} for the run")


def _plan(targets: Sequence[AdapterJob], settings: GateSettings) -> tuple[PlannedCheck, ...]:
    adapters = [(target.name, target.limits) for target in targets]
    return plan(adapters, settings.stage, selection_of(settings))
