"""The gate inside a user's project, whatever that project does to its own tests."""

from pathlib import Path

import pytest

from tests.pytest_plugin.builders import gate, place, record_of

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

CLASHING = {
    "test_static.py": "def test_files(): pass",
    "test_phi3.py": "def test_static(): pass",
}
HOSTILE_NAMES = """
[pytest]
python_files = check_*.py
python_functions = it_*
python_classes = Spec*
"""
HOSTILE_CONFTEST = """
import pytest
for name in ("phi3_adapter", "phi3_base_model", "phi3_tuned_model", "phi3_tokenizer",
             "phi3_generate", "phi3_compare", "_phi3_bench"):
    exec(f'''
@pytest.fixture(scope="session")
def {name}():
    return "nope"
''')
"""
SKIP_ALL = """
import pytest
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.skip)
"""
XFAIL_ALL = SKIP_ALL.replace("mark.skip", "mark.xfail")
FORGE_REPORTS = """
import pytest
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.outcome, report.longrepr = "passed", None
    return report
"""
NEVER_RUN = "def pytest_runtest_protocol(item): return True"
DROP_ITEMS = "def pytest_collection_modifyitems(items): items.clear()"
EXIT_ZERO = "def pytest_sessionfinish(session): session.exitstatus = 0"

HARMLESS = {
    "clashing names": CLASHING,
    "other names for tests": {"pytest.ini": HOSTILE_NAMES, "check_it.py": "def it_is(): pass"},
    "warnings are errors": {"pytest.ini": "[pytest]\nfilterwarnings = error\n"},
    "fixtures overridden": {"conftest.py": HOSTILE_CONFTEST},
    "an autouse fixture that fails": {
        "conftest.py": "import pytest\n@pytest.fixture(autouse=True)\ndef no(): raise OSError"
    },
}
DROPPING = {
    "everything skipped": {"conftest.py": SKIP_ALL},
    "nothing runs": {"conftest.py": NEVER_RUN},
    "items dropped": {"conftest.py": DROP_ITEMS},
    "items dropped and exit forged": {"conftest.py": DROP_ITEMS + "\n" + EXIT_ZERO},
    "a user's test does not import": {"test_broken.py": "import nothing_of_that_name"},
}


@pytest.mark.parametrize("files", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_a_project_sets_for_its_own_tests_changes_nothing(
    pytester: pytest.Pytester, good_adapter: Path, files: dict[str, str]
) -> None:
    place(pytester, files)
    result = gate(pytester, good_adapter)
    assert result.ret == 0, result.stdout.str()
    assert record_of(pytester).verdict == "PASS"


@pytest.mark.parametrize("files", (HARMLESS | DROPPING).values(), ids=(HARMLESS | DROPPING).keys())
def test_a_bad_adapter_never_passes(
    pytester: pytest.Pytester, nan_adapter: Path, files: dict[str, str]
) -> None:
    place(pytester, files)
    result = gate(pytester, nan_adapter)
    assert result.ret not in (0, 5), result.stdout.str()
    assert record_of(pytester).verdict in ("FAIL", "INCOMPLETE")


@pytest.mark.parametrize("conftest", [XFAIL_ALL, FORGE_REPORTS], ids=["xfail", "forged reports"])
def test_a_failure_that_pytest_is_told_to_forgive_is_still_a_failure(
    pytester: pytest.Pytester, nan_adapter: Path, conftest: str
) -> None:
    place(pytester, {"conftest.py": conftest})
    assert gate(pytester, nan_adapter).ret == 1
    assert record_of(pytester).verdict == "FAIL"


@pytest.mark.parametrize("files", DROPPING.values(), ids=DROPPING.keys())
def test_a_run_with_missing_checks_is_incomplete(
    pytester: pytest.Pytester, good_adapter: Path, files: dict[str, str]
) -> None:
    place(pytester, files)
    result = gate(pytester, good_adapter)
    assert result.ret == 1, result.stdout.str()
    record = record_of(pytester)
    assert record.verdict == "INCOMPLETE"
    assert "did not finish" in record.reason


@pytest.mark.parametrize(
    "args",
    [
        ("-k", "files"),
        ("--deselect", "phi3::static::values"),
        ("-m", "slow"),
        ("-x", "-p", "no:randomly"),
        ("--maxfail=1",),
    ],
    ids=" ".join,
)
def test_options_that_drop_or_stop_leave_the_gate_incomplete(
    pytester: pytest.Pytester, good_adapter: Path, args: tuple[str, ...]
) -> None:
    # The user's test fails, so that -x and --maxfail have something to stop at. It is collected
    # after the gate; a plugin that turns the order round makes it run first.
    place(pytester, {"test_user.py": "def test_no(): assert False", "conftest.py": REVERSED})
    result = gate(pytester, good_adapter, *args)
    assert result.ret == 1, result.stdout.str()
    assert record_of(pytester).verdict == "INCOMPLETE"


REVERSED = """
def pytest_collection_finish(session):
    session.items.reverse()
"""


def test_a_test_that_changes_the_directory_does_not_move_the_report(
    pytester: pytest.Pytester, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = pytester.mkdir("elsewhere")
    place(pytester, {"test_user.py": f"import os\ndef test_it(): os.chdir({str(elsewhere)!r})"})
    monkeypatch.chdir(pytester.path)
    result = pytester.runpytest_inprocess(f"--phi3-adapter={good_adapter}", "--phi3-stage=static")
    assert result.ret == 0
    assert (pytester.path / "reports" / "adapter" / "record.json").is_file()
    assert not list(elsewhere.iterdir())
