"""The gate inside pytest: collects the checks, decides the verdict, and writes the reports.

The checks that ran are compared with those that must run. If pytest dropped a check for any reason,
it is missing from the journal, and the verdict is INCOMPLETE.
"""

import json
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import Phi3LoraQAError, escape
from phi3_lora_qa.gate.build_record import Reported
from phi3_lora_qa.gate.gate_steps import GateRun, plan_gate, plan_jobs
from phi3_lora_qa.gate.plan import ROOT, choose
from phi3_lora_qa.gate.prepare import handed_over
from phi3_lora_qa.gate.private_copy import private_copies
from phi3_lora_qa.gate.verdict import worst
from phi3_lora_qa.pytest_plugin.fixtures import SESSION
from phi3_lora_qa.pytest_plugin.gate_items import GateCollector
from phi3_lora_qa.pytest_plugin.progress_line import ProgressLine
from phi3_lora_qa.pytest_plugin.report_target import Reports
from phi3_lora_qa.pytest_plugin.virtual_items import VirtualRoot, split_node_ids
from phi3_lora_qa.settings import DEFAULT, DRAWN, GateSettings
from phi3_lora_qa.signals import EndedError, EndSignals

WORKER_INPUT = "phi3_lora_qa"
HANDED = ("order", "device", "dtype")
"""The settings that the process that starts a run determines for all processes."""


@dataclass(eq=False)  # pluggy keeps plugins in sets
class GatePlugin(VirtualRoot):
    """The hooks of a pytest session that gates adapters.

    Attributes:
        run: The checks of this process.
        reports: Where the reports go; None in a worker process of xdist, which decides no verdict.
        signals: Ends the session on SIGTERM and SIGHUP.
        only_listed: Whether tests are only listed, so that nothing runs.
        reported: The records, once there is a verdict.
        write_error: Why the reports could not be written; empty if they were.
    """

    run: GateRun
    reports: Reports | None
    signals: EndSignals
    only_listed: bool = False
    reported: list[Reported] = field(default_factory=list)
    write_error: str = ""

    @property
    def accepted(self) -> bool:
        """Whether every adapter was accepted, and the reports were written."""
        accepted = [reported.accepted for reported in self.reported]
        return bool(accepted) and all(accepted) and not self.write_error

    @classmethod
    def begin(
        cls,
        config: pytest.Config,
        settings: GateSettings,
        reports: Reports | None,
        *,
        only_listed: bool,
    ) -> "GatePlugin":
        """Determine what must run; in the process that starts the run, copy the adapters, too.

        Args:
            config: pytest's configuration.
            settings: The settings of this run.
            reports: Where the reports go, if that was claimed already.
            only_listed: Whether tests are only listed.

        Raises:
            InputError: Something that the settings name cannot be used.
        """
        cleanup, signals = ExitStack(), EndSignals()
        config.add_cleanup(cleanup.close)
        cleanup.callback(signals.release)
        signals.catch()
        ids, rest = split_node_ids(config.args, ROOT)
        if ids or settings.only:
            config.args = rest if ids else []
        progress = ProgressLine(config)
        handed = getattr(config, "workerinput", {}).get(WORKER_INPUT)
        if handed is not None:
            reports = None  # the process that started the run has them
            run = _join_run(settings, json.loads(handed), progress)
        else:
            plan = plan_gate(settings)
            chosen = choose(plan.planned, ids) if ids else plan.planned
            if reports is None:
                reports = Reports(plan.settings, config.invocation_params.dir)
                if not only_listed:
                    reports.claim(partial=len(chosen) < len(plan.planned))
            folder = cleanup.enter_context(private_copies(plan.jobs))
            run = GateRun.start(plan, chosen, folder, progress)
        config.stash[SESSION] = run.session
        return cls(run=run, reports=reports, signals=signals, only_listed=only_listed)

    # Collection

    def make_collector(self, session: pytest.Session) -> pytest.Collector:
        """Return the collector of the chosen checks."""
        return GateCollector.from_parent(session, name=ROOT, nodeid=ROOT, run=self.run)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Put the gate's items first and in order, even if another plugin shuffled them.

        First, so that the base is scored before a user's test can change a shared model.
        """
        yield
        order = {planned.id: number for number, planned in enumerate(self.run.chosen)}
        items.sort(key=lambda item: order.get(item.nodeid, len(order)))

    # xdist

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Pass a worker the private folder, the chosen checks, and what was determined."""
        handed = {
            "folder": str(self.run.session.folder),
            "ids": [planned.id for planned in self.run.chosen],
            **{name: getattr(self.run.plan.settings, name) for name in HANDED},
        }
        node.workerinput[WORKER_INPUT] = json.dumps(handed)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Give all checks to one worker, so that the base is loaded once."""
        if config.getoption("dist") != "load":
            return None
        from phi3_lora_qa.pytest_plugin.xdist_scheduling import GateOnOneWorker

        return GateOnOneWorker(config, log)

    # Running, and the verdict

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Decide the verdict when the loop ends, even if it ends with an exception.

        Later would be too late: right after the loop, pytest reads ``testsfailed`` for the exit
        status.
        """
        try:
            return (yield)
        except EndedError as ended:
            # pytest shows where it was raised, and some places of the interpreter have no line.
            raise pytest.exit.Exception(str(ended)) from None
        finally:
            if not self.only_listed:
                self._finish(session)

    def _finish(self, session: pytest.Session) -> None:
        if self.reports is None:
            return
        with self.signals.deferred():
            try:
                self.reported = self.run.finish()
                self.reports.write(self.reported)
            except (Phi3LoraQAError, OSError) as error:
                self.write_error = escape(str(error), 2_000)
                self.reports.end(self.write_error)
            if not self.accepted:
                session.testsfailed += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the reason for a missing verdict to the reports; set the status of a signal."""
        if self.signals.received:
            session.exitstatus = exitstatus = self.signals.status
        if self.reports and not self.only_listed and not self.reported and not self.write_error:
            self.reports.end(f"pytest ended before the checks ran, with exit status {exitstatus}")

    # Output

    def pytest_report_header(self) -> list[str]:
        """Return what is gated, with which base, and where each setting came from."""
        lines = []
        for index, job in enumerate(self.run.plan.jobs):
            checks = sum(planned.adapter == index for planned in self.run.chosen)
            base = escape(job.base.id, 200) if job.base else "none"
            lines.append(
                f"phi3-lora-qa: adapter {job.name}, base {base}, {len(job.items)} items, "
                f"{checks} checks"
            )
        sources = self.run.plan.settings.sources.items()
        chosen = {name: source for name, source in sources if source not in (DEFAULT, DRAWN)}
        if chosen:
            lines.append(
                "phi3-lora-qa: "
                + ", ".join(f"{name} from {escape(str(s), 300)}" for name, s in chosen.items())
            )
        return lines

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Write the verdict, its reason and the path of the report."""
        if not self.reported and not self.write_error:
            return
        terminalreporter.section("adapter gate")
        folders = self.reports.folders if self.reports else ()
        for reported, folder in zip(self.reported, folders, strict=False):  # none, if no verdict
            record = reported.record
            mark = {"green": True} if reported.accepted else {"red": True}
            terminalreporter.write(f"{record.verdict}", bold=True, **mark)
            terminalreporter.write(f" {record.adapter.name}: {record.reason}\n")
            if fallback := record.environment.get("engine_fallback"):
                terminalreporter.write_line(
                    f"  scored with --phi3-engine plain, because fast does not fit: {fallback}"
                )
            if not self.write_error:
                terminalreporter.write_line(f"  report: {folder / 'report.html'}")
        if self.write_error:
            terminalreporter.write_line(f"no report: {self.write_error}", red=True)
        if len(self.reported) > 1:
            verdict = worst([reported.record.verdict for reported in self.reported])
            terminalreporter.write_line(f"verdict of the run: {verdict}")


def _join_run(settings: GateSettings, handed: Mapping[str, Any], progress: ProgressLine) -> GateRun:
    """Return a worker's share of a run that another process prepared."""
    folder = Path(handed["folder"])
    settings = replace(settings, **{name: handed[name] for name in HANDED})
    plan = plan_jobs(settings, handed_over(folder))
    ids = set(handed["ids"])
    return GateRun.start(plan, [p for p in plan.planned if p.id in ids], folder, progress)
