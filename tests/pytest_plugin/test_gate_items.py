"""Checks are items with ids of their own, which can be run alone."""

from pathlib import Path

import pytest

from tests.pytest_plugin.builders import gate, place, record_of

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def test_one_id_runs_alone_and_is_never_called_a_pass(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    result = gate(pytester, good_adapter, "phi3::static::values")
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    record = record_of(pytester, "out/partial")
    assert record.verdict == "PARTIAL"
    assert [check.id for check in record.checks] == ["phi3::static::values"]


def test_one_id_of_a_bad_adapter_fails(pytester: pytest.Pytester, nan_adapter: Path) -> None:
    assert gate(pytester, nan_adapter, "phi3::static::values").ret == 1
    assert gate(pytester, nan_adapter, "phi3::math::rank_is_bounded").ret == 1
    assert record_of(pytester, "out/partial").verdict == "PARTIAL"


def test_only_leaves_the_users_tests_out(pytester: pytest.Pytester, good_adapter: Path) -> None:
    place(pytester, {"test_user.py": "def test_no(): assert False"})
    assert gate(pytester, good_adapter, "--phi3-only").ret == 0
