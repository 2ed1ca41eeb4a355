"""Peak memory of a whole gate, compared with scoring only the base on the same items.

Usage: python benchmarks/memory.py ADAPTER BASE SUITE.jsonl [...]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

SCORE_BASE = """
import sys
from pathlib import Path
from phi3_lora_qa.data.suite import read_suite
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.scoring.score_items import ScoringOptions, score_items
base = load_base(resolve_base(sys.argv[1]))
suite = read_suite([Path(p) for p in sys.argv[2:]])
score_items(base.model, base.tokenizer, suite, ScoringOptions())
"""


def peak_mib(*command: str) -> float:
    """Run a command, and return the largest resident size of its processes in MiB."""
    code = (
        "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:]); "
        "print(r.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    status, peak = done.stdout.split()[-2:]
    print(f"  exit status {status}")
    return int(peak) / 1024


def main() -> None:
    """Print both sizes and their ratio."""
    adapter, base, *suites = sys.argv[1:]
    suites = [str(Path(suite).resolve()) for suite in suites]
    alone = peak_mib(sys.executable, "-c", SCORE_BASE, base, *suites)
    gate = peak_mib(
        sys.executable, "-m", "pytest", "-q", "--phi3-only", "--phi3-report=report",
        f"--phi3-adapter={Path(adapter).resolve()}", f"--phi3-base={base}",
        *(f"--phi3-suite={suite}" for suite in suites),
    )  # fmt: skip
    print(f"scoring only the base: {alone:.0f} MiB; the whole gate: {gate:.0f} MiB")
    print(f"{gate / alone:.2f} times (limit: 1.3)")


if __name__ == "__main__":
    main()
