"""Time that the installed plugin adds to a pytest session that does not use it.

Runs an empty session in fresh processes, alternately with the package's two plugins and without
them, and compares the medians.

Usage: python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 25
WITHOUT = ("-p", "no:phi3_lora_qa", "-p", "no:phi3_lora_qa_blocked")


def seconds(folder: str, *args: str) -> float:
    """Return the wall time of one pytest process in this folder."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    return time.perf_counter() - started


def main() -> None:
    """Measure and print the difference."""
    with tempfile.TemporaryDirectory() as folder:
        seconds(folder), seconds(folder, *WITHOUT)  # warm the caches
        with_plugin, without = [], []
        for _ in range(ROUNDS):
            with_plugin.append(seconds(folder))
            without.append(seconds(folder, *WITHOUT))
        slow, fast = statistics.median(with_plugin), statistics.median(without)
        print(f"empty session: {slow * 1000:.0f} ms with the plugin, {fast * 1000:.0f} ms without")
        print(
            f"the plugin adds {(slow - fast) * 1000:.1f} ms (ratio {slow / fast:.3f}; limit: 20 ms)"
        )


if __name__ == "__main__":
    main()
