"""Time of whole gates: with cached base scores, with early stopping, with several adapters.

Usage: python benchmarks/gates.py --adapter DIR [--base smollm2] [--suite FILE] [--adapters 3]

Each row is the wall time of one process, `pytest --phi3-only`, with all stages or only the quality
stage. Several adapters are copies of the given one, so each takes the same time. Their total is
compared with the time to score the base plus 0.6 of a full gate per adapter; the exit status is 1
if it is longer.
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
from phi3_lora_qa.record import RunRecord, read_record

MAX_SHARE = 0.6
"""The largest fraction of a full gate that each of several adapters may take."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The base and the suite of the gates, and a folder for temporary files."""

    base: str
    suite: Path | None
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A finished gate: the wall time of its process and the record of its first adapter."""

    seconds: float
    record: RunRecord

    def phase_seconds(self, prefix: str) -> float:
        """Return the total time of the phases whose names start with ``prefix``."""
        return sum(t.seconds for t in self.record.timings if t.phase.startswith(prefix))


def run_gate(setup: Setup, cache: str, adapters: list[Path], *options: str) -> Gate:
    """Gate the adapters in one process; ``cache`` names the folder of cached base scores."""
    report = setup.folder / f"report-{time.monotonic_ns()}"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--phi3-only",
        f"--phi3-base={setup.base}", f"--phi3-report={report}", *options,
        *(f"--phi3-adapter={adapter}" for adapter in adapters),
        *([f"--phi3-suite={setup.suite}"] if setup.suite else []),
    ]  # fmt: skip
    environment = {**os.environ, "PHI3_LORA_QA_CACHE": str(setup.folder / cache)}
    started = time.perf_counter()
    done = subprocess.run(
        command, check=False, cwd=setup.folder, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    records = sorted(report.rglob("record.json"))
    if not records:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    return Gate(seconds=seconds, record=read_record(records[0]))


def show(label: str, run: Gate) -> None:
    """Print one row."""
    print(
        f"{label}: {run.seconds:.1f} s, {run.record.verdict} (scoring the base: "
        f"{run.phase_seconds('score base'):.1f} s, the tuned model: "
        f"{run.phase_seconds('score tuned'):.1f} s)",
        flush=True,
    )


def scored_items(record: RunRecord) -> str:
    """Return the record's message on how many items were scored."""
    return next(
        (c.message for c in record.checks if c.id.endswith("every_item_is_scored")), "not recorded"
    )


def main() -> int:
    """Run and print each gate; return 1 if several adapters take too long."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--adapters", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        suite = options.suite and options.suite.resolve()
        # The base is given by its folder, because these runs use a different cache, which lacks it.
        base = str(resolve_base(options.base).folder)
        setup = Setup(base=base, suite=suite, folder=Path(name))
        adapter = options.adapter.resolve()
        all_items, quality = "--phi3-early-stop=off", "--phi3-stage=quality"
        full = run_gate(setup, "one", [adapter], all_items)
        show("one adapter", full)
        show("again, base scores cached", run_gate(setup, "one", [adapter], all_items))
        show("quality stage, all items", run_gate(setup, "one", [adapter], all_items, quality))
        early = run_gate(setup, "one", [adapter], quality)
        show("quality stage, early stopping", early)
        print(f"  {scored_items(early.record)}")
        copies = [Path(name, f"copy-{number}") for number in range(options.adapters)]
        for copy in copies:
            shutil.copytree(adapter, copy)
        several = run_gate(setup, "several", copies, all_items)
        show(f"{len(copies)} adapters at once", several)
        allowed = full.phase_seconds("score base") + len(copies) * MAX_SHARE * full.seconds
        print(
            f"  limit: {allowed:.1f} s, scoring the base and {MAX_SHARE} of a full gate per adapter"
        )
    return 1 if several.seconds > allowed else 0


if __name__ == "__main__":
    sys.exit(main())
