"""The project whose settings count is the one that pytest is run in, wherever the adapter lies."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugin.running import record_of

pytestmark = pytest.mark.slow

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


def test_options_of_the_users_project_count_and_those_of_the_adapters_do_not(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text(
        "[pytest]\naddopts = --phi3-lint-ignore=ALL --co\npythonpath = stolen\n"
    )
    (pytester.path / "pytest.ini").write_text(
        "[pytest]\naddopts = --phi3-seed=6 -p mine -o console_output_style=classic\n"
        "pythonpath = lib\n"
    )
    (pytester.path / "lib").mkdir()
    (pytester.path / "lib" / "mine.py").write_text(
        "import sys\n"
        "def pytest_addoption(parser): parser.addoption('--mine', default='unset')\n"
        "def pytest_report_header(config):\n"
        "    paths = [path for path in sys.path if path.endswith(('lib', 'stolen'))]\n"
        "    style = config.getini('console_output_style')\n"
        "    return f'mine: {config.option.mine}, {style}, {len(paths)} {paths[0]}'\n"
    )
    result = pytester.runpytest_subprocess("--phi3-adapter", elsewhere, "--mine=set", *QUICK)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    result.stdout.fnmatch_lines_random(
        [f"rootdir: {pytester.path}", f"mine: set, classic, 1 {pytester.path / 'lib'}"]
    )
    settings = record_of(pytester).settings
    assert (settings["seed"].value, settings["lint_ignore"].source) == (6, "default")


@pytest.mark.parametrize("option", ["-p theirs", "-ptheirs"])
def test_plugins_that_the_adapters_project_loaded_are_refused_with_the_fix(
    option: str, pytester: pytest.Pytester, elsewhere: Path
) -> None:
    """They have run by the time that this package is asked for anything."""
    project = elsewhere.parent
    (project / "pytest.ini").write_text(f"[pytest]\naddopts = {option}\npythonpath = .\n")
    (project / "theirs.py").write_text("")
    result = gate(pytester, elsewhere)
    assert result.ret == 2
    assert "such as --phi3-adapter=PATH" in result.stderr.str()
    assert pytester.runpytest_subprocess(f"--phi3-adapter={elsewhere}", *QUICK).ret == 0


def test_a_pytest_that_keeps_its_configuration_elsewhere_is_named_with_one_that_works(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\n")
    (pytester.path / "newer.py").write_text(
        "import _pytest.config.findpaths as f\nf.find_setup = f.determine_setup\n"
        "del f.determine_setup\n"
    )
    result = pytester.runpytest_subprocess("-p", "newer", "--phi3-adapter", elsewhere, *QUICK)
    assert result.ret == 2
    result.stderr.fnmatch_lines(
        ["*pytest 9* has no _pytest.config.findpaths.determine_setup*pip install 'pytest==*'*"]
    )


def test_a_session_without_our_options_is_left_alone(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\naddopts = --phi3-seed=6\n")
    (elsewhere.parent / "test_theirs.py").write_text("def test_theirs(): pass\n")
    result = pytester.runpytest_subprocess(elsewhere.parent)
    assert result.ret == 0
