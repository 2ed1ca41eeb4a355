"""Under xdist the gate runs on one worker, and its verdict is that of one process."""

from pathlib import Path

import pytest

from phi3_lora_qa.record import load_record
from tests.pytest_plugin.builders import QUICK, place, record_of, run_static

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.mark.parametrize("form", ["phi3::static::values", "../phi3::static::values"])
def test_an_id_runs_again_under_xdist_too(
    form: str, pytester: pytest.Pytester, good_adapter: Path, nan_adapter: Path
) -> None:
    for adapter, status in ((good_adapter, 0), (nan_adapter, 1)):
        result = run_static(pytester, adapter, "-n2", form)
        assert result.ret == status, result.stdout.str()
        record = load_record(pytester.path / "out" / "partial" / "record.json")
        assert record.verdict == "PARTIAL"
        assert "values" in {check.id.rpartition("::")[2] for check in record.checks}


def test_only_leaves_the_users_tests_out_of_the_workers_too(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    (pytester.path / "test_user.py").write_text("def test_no(): assert False\n")
    result = run_static(pytester, good_adapter, "-n2", "--phi3-only")
    assert result.ret == 0, result.stdout.str()


def test_two_workers_give_the_verdict_of_one(
    pytester: pytest.Pytester, good_adapter: Path, nan_adapter: Path
) -> None:
    place(pytester, {"test_user.py": "def test_yes(): pass"})
    args = ("-n2", "-p", "xdist", *QUICK)
    for adapter, status, verdict in ((good_adapter, 0, "PASS"), (nan_adapter, 1, "FAIL")):
        result = pytester.runpytest_subprocess(
            f"--phi3-adapter={adapter}", "--phi3-report=out", *args
        )
        assert result.ret == status, result.stdout.str()
        assert record_of(pytester).verdict == verdict
