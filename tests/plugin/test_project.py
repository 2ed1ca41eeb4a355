"""The project whose settings count is the one that pytest is run in, wherever the adapter lies."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugin.running import record_of

QUICK = ("--phi3-stage", "static", "--phi3-only", "--phi3-report=out")


@pytest.fixture
def elsewhere(adapter_copy: Callable[[str], Path], pytester: pytest.Pytester) -> Path:
    """An adapter in a project of its own, which has nothing in common with the user's."""
    folder = adapter_copy("theirs")
    assert Path(os.path.commonpath((folder, pytester.path))) not in (folder, pytester.path)
    return folder


def gate(pytester: pytest.Pytester, adapter: Path) -> pytest.RunResult:
    return pytester.runpytest_subprocess("--phi3-adapter", adapter, *QUICK)


def test_settings_of_the_users_project_count_and_those_of_the_adapters_do_not(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\nphi3_lint_ignore = ALL\n")
    (pytester.path / "phi3-lora-qa.toml").write_text("seed = 5\nbase = 'tiny'\n")
    assert gate(pytester, elsewhere).ret == 0
    settings = record_of(pytester).settings
    assert (settings["seed"].value, settings["lint_ignore"].source) == (5, "default")
    (pytester.path / "pytest.ini").write_text("[pytest]\nphi3_seed = 6\n")
    assert gate(pytester, elsewhere).ret == 0
    assert record_of(pytester).settings["seed"].value == 6


@pytest.mark.parametrize("whose", ["theirs", "the user's"])
def test_options_that_were_added_or_lost_are_refused_with_the_mend(
    whose: str, pytester: pytest.Pytester, elsewhere: Path
) -> None:
    theirs = "[pytest]\naddopts = --phi3-lint-ignore=ALL\n" if whose == "theirs" else "[pytest]\n"
    (elsewhere.parent / "pytest.ini").write_text(theirs)
    if whose == "the user's":
        (pytester.path / "pytest.ini").write_text("[pytest]\naddopts = --phi3-seed=6\n")
    result = gate(pytester, elsewhere)
    assert result.ret == 2
    assert "such as --phi3-adapter=PATH" in result.stderr.str()
    assert pytester.runpytest_subprocess(f"--phi3-adapter={elsewhere}", *QUICK).ret == 0


def test_a_session_without_our_options_is_left_alone(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\naddopts = --phi3-seed=6\n")
    (elsewhere.parent / "test_theirs.py").write_text("def test_theirs(): pass\n")
    result = pytester.runpytest_subprocess(elsewhere.parent)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"rootdir: {elsewhere.parent}"])
