"""What whole gates cost: with the base kept, with an early end, and of several adapters at once.

Usage: python benchmarks/gates.py --adapter DIR [--base smollm2] [--suite FILE] [--adapters 3]

Every row is the wall time of one process, `pytest --phi3-only`, with all its stages or with the
quality stage alone. Several adapters are copies of the one, so that each costs the same. Theirs is
held against the base's scoring and 0.6 of a full gate for each; the exit status is 1 if it is more.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.record import RunRecord, load_record

SHARE = 0.6
"""Of a full gate, the most that each of several adapters may cost."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What is gated, on what, and where there is room."""

    base: str
    suite: Path | None
    place: Path


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One finished process: its wall seconds, and the record of its first adapter."""

    seconds: float
    record: RunRecord

    def spent(self, phase: str) -> float:
        """The seconds of the phases whose name begins so."""
        return sum(t.seconds for t in self.record.timings if t.phase.startswith(phase))


def gate(given: Given, cache: str, adapters: list[Path], *options: str) -> Gate:
    """Gate these adapters, with what is kept of the base in a cache of this name."""
    report = given.place / f"report-{time.monotonic_ns()}"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--phi3-only",
        f"--phi3-base={given.base}", f"--phi3-report={report}", *options,
        *(f"--phi3-adapter={adapter}" for adapter in adapters),
        *([f"--phi3-suite={given.suite}"] if given.suite else []),
    ]  # fmt: skip
    environment = {**os.environ, "PHI3_LORA_QA_CACHE": str(given.place / cache)}
    started = time.perf_counter()
    done = subprocess.run(
        command, check=False, cwd=given.place, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    records = sorted(report.rglob("record.json"))
    if not records:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    return Gate(seconds=seconds, record=load_record(records[0]))


def show(what: str, found: Gate) -> None:
    """Print one row."""
    print(
        f"{what}: {found.seconds:.1f} s, {found.record.verdict} (the base's scores "
        f"{found.spent('score base'):.1f} s, the tuned model's {found.spent('score tuned'):.1f} s)",
        flush=True,
    )


def spared(record: RunRecord) -> str:
    """How many of the items an early end left out, in the record's own words."""
    return next(
        (c.message for c in record.checks if c.id.endswith("every_item_is_scored")), "not said"
    )


def main() -> int:
    """Gate one after the other and print; return 1 if several adapters cost too much."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--adapters", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        suite = given.suite and given.suite.resolve()
        # By its folder: the cache in which it lies under its name is another one here.
        base = str(resolve_base(given.base).folder)
        what = Given(base=base, suite=suite, place=Path(name))
        one, whole, quality = given.adapter.resolve(), "--phi3-early-stop=off", "--phi3-stage"
        full = gate(what, "one", [one], whole)
        show("one adapter", full)
        show("again, the base kept", gate(what, "one", [one], whole))
        show("quality alone, all items", gate(what, "one", [one], whole, quality, "quality"))
        early = gate(what, "one", [one], quality, "quality")
        show("quality alone, early end", early)
        print(f"  {spared(early.record)}")
        copies = [Path(name, f"copy-{number}") for number in range(given.adapters)]
        for copy in copies:
            shutil.copytree(one, copy)
        several = gate(what, "several", copies, whole)
        show(f"{len(copies)} adapters at once", several)
        allowed = full.spent("score base") + len(copies) * SHARE * full.seconds
        print(f"  allowed: {allowed:.1f} s, the base and {SHARE} of a full gate for each")
    return 1 if several.seconds > allowed else 0


if __name__ == "__main__":
    sys.exit(main())
