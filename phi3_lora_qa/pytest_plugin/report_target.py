"""Where the reports of a session go, and what stands there for as long as there is no verdict.

An earlier report must not stand for a run that was killed, so it is replaced before anything else
is done. Nothing else is: no file of the user's, no baseline, nothing in an adapter's folder.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.gate.build_record import Reported, record_without_verdict
from phi3_lora_qa.gate.plan import ROOT
from phi3_lora_qa.gate.prepare import ITEMS_FILE, adapter_names
from phi3_lora_qa.pytest_plugin.virtual_items import take_ids
from phi3_lora_qa.record import load_record
from phi3_lora_qa.report import replace_report, require_own, take_away, write_report
from phi3_lora_qa.settings import GateSettings, is_inside, real
from phi3_lora_qa.signals import EndedError, EndSignals

STILL_RUNNING = (
    "no verdict: when this was written the run had just begun; it is going on, or it was ended "
    "before it could judge"
)


class Reports:
    """The report folders of one session, one for each adapter."""

    def __init__(self, settings: GateSettings, directory: Path) -> None:
        """Find out where the reports go, before a test could change the directory.

        Args:
            settings: The run's settings, as far as they are known.
            directory: Where pytest was called.
        """
        self._settings = settings
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._names = adapter_names(settings.adapter)
        several = len(self._names) > 1
        whole = settings.report or directory / "reports"
        below = several or settings.report is None
        self._whole = [whole / name if below else whole for name in self._names]
        self.folders: tuple[Path, ...] = ()
        """Where each adapter's report goes, once that was claimed."""
        self._judged: set[Path] = set()

    def claim(self, *, partial: bool) -> None:
        """Replace each adapter's report by one that says that there is no verdict.

        Args:
            partial: Only chosen ids are run, which never replaces a whole run's report.

        Raises:
            InputError: A report may not, or cannot, go where it was to go.
        """
        faults = []
        self.folders = tuple(folder / "partial" if partial else folder for folder in self._whole)
        for name, source, folder in zip(
            self._names, self._settings.adapter, self.folders, strict=True
        ):
            try:
                self._require_allowed(folder)
                require_own(folder)
                try:
                    self._retract(name, source, folder, STILL_RUNNING)
                except InputError:
                    take_away(folder)  # it may say PASS, of another adapter
                    raise
            except InputError as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def end(self, why: str) -> None:
        """Say in the reports without a verdict why there will be none.

        Where that cannot be written, there is what was written in the beginning.
        """
        for name, source, folder in zip(
            self._names, self._settings.adapter, self.folders, strict=False
        ):
            if folder in self._judged:
                continue
            with suppress(InputError, OSError):
                self._require_allowed(folder)
                reason = f"no verdict: the run ended before it could judge: {why}"
                self._retract(name, source, folder, reason)

    def write(self, reported: Sequence[Reported]) -> None:
        """Write the verdicts.

        Raises:
            InputError: One of them cannot be written; what says that there is none stays.
        """
        faults = []
        for one, folder in zip(reported, self.folders, strict=True):
            try:
                write_report(one.record, one.rows, folder)
                self._judged.add(folder)
            except InputError as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def _retract(self, name: str, source: Path, folder: Path, reason: str) -> None:
        record = record_without_verdict(
            self._settings, name=name, source=source, reason=reason, started=self._started
        )
        replace_report(record, folder)

    def _require_allowed(self, folder: Path) -> None:
        if is_inside(self._settings.adapter, folder):
            raise InputError(
                f"the report would be written to {escape(str(folder))}, which lies in the "
                "adapter's own folder; give another folder with --phi3-report DIR"
            )
        if any(_same(folder, place) for place in _places(self._settings.baseline)):
            raise InputError(
                f"the report would be written to {escape(str(folder))} and take the place of the "
                "baseline there; give another folder with --phi3-report DIR, or move the "
                "baseline's record.json and items.parquet to a folder of their own"
            )


def claim_early(settings: GateSettings, directory: Path, args: Sequence[str]) -> Reports | None:
    """Claim the reports of a run of everything, before anything else happens; else return None.

    Raises:
        InputError: As `Reports.claim`.
    """
    if take_ids(args, ROOT)[0]:
        return None
    signals = EndSignals()
    signals.catch()
    try:
        reports = Reports(settings, directory)
        with signals.deferred():
            reports.claim(partial=False)
    except EndedError:
        signals.release()
        os.kill(os.getpid(), signals.received)  # nobody has begun to catch it: it ends the process
        raise
    finally:
        signals.release()
    return reports


def _places(baseline: Path | None) -> list[Path]:
    """Return every folder that holds a part of the baseline, links followed."""
    if baseline is None:
        return []
    items = ITEMS_FILE
    with suppress(InputError):
        items = str(load_record(baseline).items) or ITEMS_FILE
    beside = [baseline, baseline.parent / ITEMS_FILE, baseline.parent / items]
    return [baseline, baseline.parent, *(real(path).parent for path in beside)]


def _same(folder: Path, other: Path) -> bool:
    try:
        return folder.samefile(other)  # through links, mounts and other spellings
    except (OSError, ValueError):
        return False
