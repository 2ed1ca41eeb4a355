"""The journal: the results of the checks on disk, from which alone the verdict is computed.

Any conftest can rewrite pytest's own reports, and under xdist they are in another process. So each
check's result is written to a small file here as soon as it ends, and the process that started the
run reads all of them at the end, even if the run failed.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from phi3_lora_qa.dataclass_json import Json, from_plain, to_plain
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.record import CheckResult, ItemRow, Metric, Spectrum, Timing


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The measurements of one adapter in addition to the checks' outcomes."""

    adapter: int
    metrics: Sequence[Metric] = ()
    items: Sequence[ItemRow] = ()
    spectra: Sequence[Spectrum] = ()
    timings: Sequence[Timing] = ()
    environment: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Journal:
    """A folder of result files, private to one run."""

    folder: Path

    def add_result(self, adapter: int, result: CheckResult) -> None:
        """Write one check's result."""
        self._write("check", {"adapter": adapter, "result": to_plain(result)})

    def add_evidence(self, evidence: Evidence) -> None:
        """Write measurements for the record."""
        self._write("evidence", to_plain(evidence))

    def results(self) -> list[tuple[int, CheckResult]]:
        """Return ``(adapter, result)`` of every check that ended, in the order of ending."""
        return [
            (raw["adapter"], from_plain(CheckResult, raw["result"])) for raw in self._read("check")
        ]

    def evidence(self) -> list[Evidence]:
        """Return all measurements, in the order in which they were written."""
        return [from_plain(Evidence, raw) for raw in self._read("evidence")]

    def _write(self, kind: str, value: Json) -> None:
        """Write a complete file or none: a process may be killed at any moment."""
        name = f"{kind}-{uuid.uuid4().hex}"
        part = self.folder / f"{name}.part"
        try:
            part.write_text(json.dumps(value), encoding="utf-8")
            part.rename(self.folder / f"{name}.json")
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise InputError(
                f"cannot write results to {escape(str(self.folder))}: "
                f"{error.strerror or error}; free some space there, or set TMPDIR to a folder "
                "that has more"
            ) from error

    def _read(self, kind: str) -> list[Json]:
        files = sorted(self.folder.glob(f"{kind}-*.json"), key=lambda file: file.stat().st_mtime_ns)
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]
