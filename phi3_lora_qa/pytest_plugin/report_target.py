"""Where a run's reports go, and what they contain before there is a verdict.

An earlier report must not pass for the report of a run that was killed, so it is replaced before
anything else happens. Nothing else is replaced: no user file, no baseline, and nothing in an
adapter's folder.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.gate.build_record import Reported, record_without_verdict
from phi3_lora_qa.gate.prepare import ITEMS_FILE, adapter_names
from phi3_lora_qa.record import load_record
from phi3_lora_qa.report import remove_report, replace_report, require_own, write_report
from phi3_lora_qa.settings import GateSettings, is_inside, real

STILL_RUNNING = (
    "no verdict: the run had just begun when this was written; it is still running, or it ended "
    "early"
)


class Reports:
    """The report folders of one run, one for each adapter.

    Attributes:
        folders: The folder of each adapter's report, once it was claimed.
    """

    def __init__(self, settings: GateSettings, directory: Path) -> None:
        """Determine where the reports go, before a test can change the directory.

        Args:
            settings: The valid part of the run's settings.
            directory: The directory in which the run was started.
        """
        self._settings = settings
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._names = adapter_names(settings.adapter)
        several = len(self._names) > 1
        parent = settings.report or directory / "reports"
        below = several or settings.report is None
        self._folders = [parent / name if below else parent for name in self._names]
        self.folders: tuple[Path, ...] = ()
        self._decided: set[Path] = set()

    def claim(self, *, partial: bool) -> None:
        """Replace each adapter's report with one without a verdict.

        Args:
            partial: Whether only selected checks run; their report never replaces a full run's.

        Raises:
            InputError: A report must not, or cannot, be written to its folder.
        """
        faults = []
        self.folders = tuple(folder / "partial" if partial else folder for folder in self._folders)
        for name, source, folder in zip(
            self._names, self._settings.adapter, self.folders, strict=True
        ):
            try:
                self._require_allowed(folder)
                require_own(folder)
                try:
                    self._retract(name, source, folder, STILL_RUNNING)
                except InputError:
                    remove_report(folder)  # it may contain a PASS for another adapter
                    raise
            except InputError as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def end(self, why: str) -> None:
        """Write the reason for a missing verdict to the reports that have none.

        If that fails, the report from the start of the run stays.
        """
        for name, source, folder in zip(
            self._names, self._settings.adapter, self.folders, strict=False
        ):
            if folder in self._decided:
                continue
            with suppress(InputError, OSError):
                self._require_allowed(folder)
                reason = f"no verdict: the run ended early: {why}"
                self._retract(name, source, folder, reason)

    def write(self, reported: Sequence[Reported]) -> None:
        """Write the verdicts.

        Raises:
            InputError: One of them cannot be written; the report without a verdict stays.
        """
        faults = []
        for one, folder in zip(reported, self.folders, strict=True):
            try:
                write_report(one.record, one.rows, folder)
                self._decided.add(folder)
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
                f"the report must not be written to the adapter's folder: it would go to "
                f"{escape(str(folder))}; set another folder with --phi3-report DIR"
            )
        if any(_same(folder, place) for place in _places(self._settings.baseline)):
            raise InputError(
                f"the report must not replace the baseline: it would go to "
                f"{escape(str(folder))}; set another folder with --phi3-report DIR, or move the "
                "baseline's record.json and items.parquet to another folder"
            )


def _places(baseline: Path | None) -> list[Path]:
    """Return every folder that contains a part of the baseline, with links resolved."""
    if baseline is None:
        return []
    items = ITEMS_FILE
    with suppress(InputError):
        items = str(load_record(baseline).items) or ITEMS_FILE
    parts = [baseline, baseline.parent / ITEMS_FILE, baseline.parent / items]
    return [baseline, baseline.parent, *(real(path).parent for path in parts)]


def _same(folder: Path, other: Path) -> bool:
    try:
        return folder.samefile(other)  # through links, mounts and other spellings
    except (OSError, ValueError):
        return False
