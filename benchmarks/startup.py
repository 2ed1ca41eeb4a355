"""What the installed plugin costs a pytest session that does not use it.

Runs ``pytest --version`` and an empty session in fresh processes, with the plugin and with
both of its plugins switched off, in turns, and compares the medians.

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
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        seconds(folder), seconds(folder, *WITHOUT)  # warm the caches
        with_plugin, without = [], []
        for _ in range(ROUNDS):
            with_plugin.append(seconds(folder))
            without.append(seconds(folder, *WITHOUT))
        a, b = statistics.median(with_plugin), statistics.median(without)
        print(f"empty session: {a * 1000:.0f} ms with the plugin, {b * 1000:.0f} ms without it")
        print(
            f"the plugin costs {(a - b) * 1000:.1f} ms ({a / b:.3f} times; wanted: at most 20 ms)"
        )


if __name__ == "__main__":
    main()
