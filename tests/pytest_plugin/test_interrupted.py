"""Ctrl-C ends the gate with a record that says what is missing."""

from pathlib import Path

import pytest

from phi3_lora_qa.record import Outcome, load_record

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
    record = load_record(pytester.path / "report" / "record.json")
    assert record.verdict == "INCOMPLETE"
    assert "interrupted" in record.reason
    static = {check.outcome for check in record.checks if check.stage == "static"}
    assert static == {Outcome.PASSED}
    assert (pytester.path / "report" / "report.html").is_file()


ENDING = """
import os, signal, threading
def pytest_runtest_logstart(nodeid):
    if nodeid.startswith("phi3::quality") and "PYTEST_XDIST_WORKER" not in os.environ:
        threading.Timer({wait}, os.kill, (os.getpid(), signal.{signal})).start()
"""


def ended(pytester: pytest.Pytester, adapter: Path, script: str, *args: str) -> pytest.RunResult:
    """Run a gate that is ended, with a folder of its own for temporary files."""
    (pytester.path / "ending.py").write_text(script)
    temporary = pytester.mkdir("temporary")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("PYTEST_XDIST_WORKER", raising=False)
        patched.setenv("TMPDIR", str(temporary))
        return pytester.runpytest_subprocess(
            "-p", "ending", "--phi3-only", "--phi3-stage=static", "--phi3-stage=quality",
            f"--phi3-adapter={adapter}", "--phi3-base=tiny", "--phi3-report=report", *args,
        )  # fmt: skip


def left(pytester: pytest.Pytester) -> list[str]:
    """Names of ours among the temporary files, and of parts in the report's folder."""
    ours = [path.name for path in (pytester.path / "temporary").glob("*phi3-lora-qa*")]
    return ours + [path.name for path in (pytester.path / "report").glob(".*")]


@pytest.mark.parametrize(("signal", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("workers", [("-p", "no:xdist"), ("-n1",)])
def test_a_signal_leaves_a_record_and_nothing_else(
    signal: str,
    status: int,
    workers: tuple[str, ...],
    pytester: pytest.Pytester,
    good_adapter: Path,
) -> None:
    script = ENDING.format(wait=0.3, signal=signal)
    result = ended(pytester, good_adapter, script, *workers)
    assert result.ret == status, result.stdout.str() + result.stderr.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    result.stdout.fnmatch_lines(["INCOMPLETE adapter: *"])
    record = load_record(pytester.path / "report" / "record.json")
    assert record.verdict == "INCOMPLETE"
    assert not left(pytester)


def test_a_handler_of_the_users_own_is_the_one_that_is_called(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    own = "\nsignal.signal(signal.SIGTERM, lambda number, frame: open('mine', 'w').close())\n"
    script = ENDING.format(wait=0, signal="SIGTERM") + own
    result = ended(pytester, good_adapter, script, "-p", "no:xdist")
    assert result.ret == 0, result.stdout.str()
    assert (pytester.path / "mine").exists()


def test_what_a_killed_run_left_goes_with_the_next(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    script = ENDING.format(wait=0, signal="SIGKILL")
    assert ended(pytester, good_adapter, script, "-p", "no:xdist").ret == -9
    assert load_record(pytester.path / "report" / "record.json").reason.startswith("no verdict")
    assert left(pytester)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(pytester.path / "temporary"))
        result = pytester.runpytest_subprocess(
            "--phi3-only", "--phi3-stage=static", f"--phi3-adapter={good_adapter}",
            "--phi3-base=tiny", "--phi3-report=report",
        )  # fmt: skip
    assert result.ret == 0
    assert not left(pytester)


# The report's folder and the folder of temporary files run out of room.

FULL = """
import errno, os
from pathlib import Path

real_open = Path.open
def full(path, *args, **kwargs):
    stream = real_open(path, *args, **kwargs)
    if FULL_NOW and path.name.startswith(".") and path.name.endswith(".part"):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return stream
FULL_NOW = False
Path.open = full
def pytest_runtest_logstart(nodeid):
    global FULL_NOW
    FULL_NOW = True
"""
JOURNAL_FULL = """
import errno, os
from pathlib import Path
real = Path.write_text
def full(path, text, *args, **kwargs):
    if path.name.endswith(".part"):
        real(path, text[:4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(path, text, *args, **kwargs)
Path.write_text = full
"""


def test_a_report_that_has_no_room_is_no_pass_and_leaves_no_half_of_one(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    result = ended(pytester, good_adapter, FULL, "-p", "no:xdist")
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(["no report: cannot write *: No space left on device; *"])
    assert "Traceback" not in result.stdout.str()
    assert load_record(pytester.path / "report" / "record.json").reason.startswith("no verdict")
    assert not left(pytester)


def test_checks_whose_results_have_no_room_are_no_pass(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    result = ended(pytester, good_adapter, JOURNAL_FULL, "-p", "no:xdist", "--phi3-stage=math")
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["*what was found cannot be written*: No space left on device; free*"]
    )
    assert "Traceback" not in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()
    assert load_record(pytester.path / "report" / "record.json").verdict == "INCOMPLETE"
    assert not left(pytester)


def test_a_private_folder_that_is_gone_ends_in_one_line(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    gone = """
import os, shutil
from pathlib import Path
def pytest_runtest_logfinish(nodeid):
    for folder in Path(os.environ["TMPDIR"]).glob("phi3-lora-qa-*"):
        shutil.rmtree(folder)
"""
    result = ended(pytester, good_adapter, gone, "-p", "no:xdist")
    assert result.ret == 1, result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()
    result.stdout.fnmatch_lines(["no report: *"])
    assert load_record(pytester.path / "report" / "record.json").reason.startswith("no verdict")


@pytest.mark.parametrize("hook", ["sessionfinish", "unconfigure", "terminal_summary"])
def test_a_signal_behind_the_last_test_is_no_rejection(
    hook: str, pytester: pytest.Pytester, good_adapter: Path
) -> None:
    pytester.makeconftest(
        f"import os, signal\ndef pytest_{hook}(): os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    result = pytester.runpytest_subprocess(
        f"--phi3-adapter={good_adapter}", "--phi3-only", "--phi3-stage=static", "--phi3-report=out"
    )
    assert result.ret == 143, result.stdout.str() + result.stderr.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert load_record(pytester.path / "out" / "record.json").verdict == "PASS"


def test_a_test_that_removes_its_own_directory_loses_no_verdict(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    pytester.makepyfile(
        """
        import os, shutil, tempfile
        def test_leaves_a_directory_that_is_gone():
            place = tempfile.mkdtemp()
            os.chdir(place)
            shutil.rmtree(place)
        """
    )
    result = pytester.runpytest_subprocess(
        f"--phi3-adapter={good_adapter}",
        "--phi3-stage=static",
        f"--phi3-report={pytester.path}/out",
    )
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    assert load_record(pytester.path / "out" / "record.json").verdict == "PASS"
