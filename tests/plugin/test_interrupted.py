"""Ctrl-C ends the gate with a record that says what is missing."""

from pathlib import Path

import pytest

from phi3_lora_qa.record import Outcome, read_record

pytestmark = pytest.mark.slow

# As a terminal does it: the signal comes from outside, in the middle of scoring.
STOPPING = """
import os, signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
def pytest_runtest_logstart(nodeid):
    if nodeid.startswith("phi3::quality"):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
"""


def test_ctrl_c_leaves_a_record_that_says_what_did_not_run(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    (pytester.path / "stopping.py").write_text(STOPPING)
    result = pytester.runpytest_subprocess(
        "-p", "stopping", "-p", "no:xdist", "--phi3-only", "--phi3-stage=static",
        "--phi3-stage=quality", f"--phi3-adapter={good_adapter}", "--phi3-base=tiny",
        "--phi3-report=report",
    )  # fmt: skip
    assert result.ret == 1, result.stdout.str()
    record = read_record(pytester.path / "report" / "record.json")
    assert record.verdict == "INCOMPLETE"
    assert "interrupted" in record.reason
    static = {check.outcome for check in record.checks if check.stage == "static"}
    assert static == {Outcome.PASSED}
    assert (pytester.path / "report" / "report.html").is_file()
