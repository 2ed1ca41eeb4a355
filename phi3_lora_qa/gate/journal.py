"""What the checks recorded, on disk: the only thing that the verdict is computed from.

pytest's own reports can be rewritten by any conftest, and lie in another process under xdist. A
check therefore writes its result here the moment it ends, one small file each, and the process
that started the run reads them all at the end, however that end came.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from phi3_lora_qa.dataclass_json import Json, from_plain, to_plain
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.record import (
    CheckResult,
    ItemRow,
    Metric,
    Spectrum,
    Timing,
)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a process measured beside the checks' outcomes, for one adapter (or -1: for all)."""

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
        """Write measurements that belong into the record."""
        self._write("evidence", to_plain(evidence))

    def results(self) -> list[tuple[int, CheckResult]]:
        """Return ``(adapter, result)`` of every check that ended, in the order of their ends."""
        return [
            (raw["adapter"], from_plain(CheckResult, raw["result"])) for raw in self._read("check")
        ]

    def evidence(self) -> list[Evidence]:
        """Return everything that was measured, in the order of its writing."""
        return [from_plain(Evidence, raw) for raw in self._read("evidence")]

    def _write(self, kind: str, value: Json) -> None:
        """Write whole or not at all: a process may be killed at any moment."""
        name = f"{kind}-{uuid.uuid4().hex}"
        part = self.folder / f"{name}.part"
        try:
            part.write_text(json.dumps(value), encoding="utf-8")
            part.rename(self.folder / f"{name}.json")
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise InputError(
                f"what was found cannot be written to {escape(str(self.folder))}: "
                f"{error.strerror or error}; free some space there, or set TMPDIR to a folder "
                "with more"
            ) from error

    def _read(self, kind: str) -> list[Json]:
        files = sorted(self.folder.glob(f"{kind}-*.json"), key=lambda file: file.stat().st_mtime_ns)
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]
