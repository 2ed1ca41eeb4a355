"""Run one gate twenty times, with shuffled items, 0 or 2 workers, and a cold or warm score cache.

Usage: python benchmarks/repeat.py [--runs 20] [--adapter DIR] [--base tiny]

Compares the verdict, each check's outcome and each metric's figures of every run with the first
run's, to the last bit. The exit status is 1 if anything differs.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from phi3_lora_qa.models.registry import bundled, bundled_suite, bundled_thresholds, resolve_base
from phi3_lora_qa.record import RunRecord, load_record


def gate(number: int, base: str, adapter: Path, place: Path) -> RunRecord:
    """Gate once: odd runs have two workers; two of four runs start with an empty score cache."""
    ref = resolve_base(base)
    lines = bundled_suite(ref).read_text(encoding="utf-8").splitlines()
    random.Random(number).shuffle(lines)
    suite, report = place / "suite.jsonl", place / f"report-{number}"
    suite.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(number % 2 * 2),
        "--phi3-only", f"--phi3-adapter={adapter}", f"--phi3-base={base}", f"--phi3-suite={suite}",
        f"--phi3-thresholds={bundled_thresholds(ref)}", f"--phi3-report={report}",
        "--phi3-cache-scores=on", "--phi3-order=0",
    ]  # fmt: skip
    cache = place / (f"cold-{number}" if number % 4 < 2 else "warm")
    environment = {**os.environ, "PHI3_LORA_QA_CACHE": str(cache)}
    done = subprocess.run(
        command, check=False, cwd=place, env=environment, capture_output=True, text=True
    )
    if not (report / "record.json").is_file():
        sys.exit(f"{done.stdout}\n{done.stderr}")
    return load_record(report / "record.json")


def figures(record: RunRecord) -> dict[str, str]:
    """Return what must be the same in every run, by name."""
    return {
        "verdict": record.verdict,
        **{check.id: f"{check.outcome} {check.measured}" for check in record.checks},
        **{f"{m.group} {m.metric} {m.limit} {m.against}": repr(m) for m in record.metrics},
    }


def main() -> int:
    """Run, compare and print; return 1 if any run differs from the first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--adapter", type=Path, default=bundled("tiny") / "adapter")
    given = parser.parse_args()
    differing = 0
    with tempfile.TemporaryDirectory() as name:
        first: dict[str, str] = {}
        for number in range(given.runs):
            found = figures(gate(number, given.base, given.adapter.resolve(), Path(name)))
            first = first or found
            differ = [key for key in first | found if first.get(key) != found.get(key)]
            differing += bool(differ)
            print(f"run {number}: {found['verdict']}, {len(found)} figures", flush=True)
            for key in differ[:3]:
                print(f"  {key}: {first.get(key)} in the first run, now {found.get(key)}")
    print(f"{differing} of {given.runs} runs differ from the first")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
