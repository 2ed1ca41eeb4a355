"""The project whose settings count is the one that pytest is run in, wherever the adapter lies."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pytest_plugin.builders import record_of

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


@pytest.mark.parametrize("spelling", ["--phi3-adapter={}", "--phi3-adapter {}"])
def test_the_users_own_options_count_however_the_adapter_is_named(
    spelling: str, pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\n")
    (pytester.path / "pytest.ini").write_text("[pytest]\naddopts = --phi3-seed=6 -W error\n")
    (pytester.path / "test_warns.py").write_text(
        "import warnings\ndef test_warns(): warnings.warn('so')\n"
    )
    words = spelling.format(elsewhere).split(" ")
    result = pytester.runpytest_subprocess(*words, "--phi3-stage=static", "--phi3-report=out")
    result.assert_outcomes(passed=10, failed=1)
    assert record_of(pytester).settings["seed"].value == 6


def test_an_adapter_in_the_users_own_options_is_gated_beside_an_option_that_was_typed(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    (pytester.path / "pytest.ini").write_text(f"[pytest]\naddopts = --phi3-adapter={nan_adapter}\n")
    assert pytester.runpytest_subprocess(*QUICK).ret == 1
    assert record_of(pytester).verdict == "FAIL"


@pytest.mark.parametrize(
    "theirs",
    [
        '-o "addopts=-q -q -q -q -q"',
        "--phi3-lint-ignore=ALL -o addopts=",
        "--collect-only -o addopts=",
        "--collect-only --deselect=phi3::static::values",
    ],
)
def test_options_of_the_adapters_project_do_not_hide_that_they_were_added(
    theirs: str, pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    project = pytester.path.parent / f"{pytester.path.name}-theirs"
    project.mkdir()
    nan_adapter.rename(project / "adapter")
    (project / "pytest.ini").write_text(f"[pytest]\naddopts = {theirs}\n")
    (pytester.path / "pytest.ini").write_text("[pytest]\n")
    assert gate(pytester, project / "adapter").ret == 1
    assert record_of(pytester).verdict == "FAIL"


def test_an_adapter_that_a_file_of_words_names_is_gated_by_the_users_settings(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\naddopts = --phi3-seed=9\n")
    (pytester.path / "pytest.ini").write_text("[pytest]\nphi3_seed = 6\n")
    (pytester.path / "words.txt").write_text(f"--phi3-adapter\n{elsewhere}\n")
    assert pytester.runpytest_subprocess("@words.txt", *QUICK).ret == 0
    assert record_of(pytester).settings["seed"].value == 6


def test_what_the_users_project_requires_is_required(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\n")
    for line, says in (
        ("required_plugins = pytest-none", "pytest-none"),
        ("minversion = 99", "99"),
    ):
        (pytester.path / "pytest.ini").write_text(f"[pytest]\n{line}\n")
        result = gate(pytester, elsewhere)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert says in result.stderr.str()


def test_a_path_among_the_users_options_moves_no_configuration(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\n")
    pytester.mkdir("tests").joinpath("pytest.ini").write_text("[pytest]\nphi3_seed = 9\n")
    (pytester.path / "pytest.ini").write_text("[pytest]\naddopts = tests\nphi3_seed = 6\n")
    assert gate(pytester, elsewhere).ret == 0
    assert record_of(pytester).settings["seed"].value == 6


@pytest.mark.parametrize(
    "lines",
    [
        "addopts = -p theirs",
        "addopts = -ptheirs",
        "addopts = -p no:python",
        "addopts = -p theirs -o addopts=",
        "filterwarnings = ignore::theirs.Imported",
    ],
)
def test_plugins_that_the_adapters_project_loaded_are_refused_with_the_fix(
    lines: str, pytester: pytest.Pytester, elsewhere: Path
) -> None:
    """They have run, or are blocked, by the time that this package is asked for anything."""
    project = elsewhere.parent
    (project / "pytest.ini").write_text(f"[pytest]\n{lines}\npythonpath = .\n")
    (project / "theirs.py").write_text("class Imported(Warning): pass\n")
    result = gate(pytester, elsewhere)
    assert result.ret == 2
    assert "such as --phi3-adapter=PATH" in result.stderr.str()
    if lines == "addopts = -p theirs":
        assert pytester.runpytest_subprocess(f"--phi3-adapter={elsewhere}", *QUICK).ret == 0


NEWER = {
    "del findpaths.determine_setup": "has no _pytest.config.findpaths.determine_setup",
    "findpaths.determine_setup = lambda **given: (1, 2, 3)": "reads its configuration differently",
    "del config.Config._checkversion": "reads its configuration differently (AttributeError",
}


@pytest.mark.parametrize("change", NEWER)
def test_a_pytest_that_keeps_its_configuration_elsewhere_is_named_with_one_that_works(
    change: str, pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\n")
    # As another version would be; what pytest itself needs before stays.
    (pytester.path / "newer.py").write_text(
        "import pytest\nfrom _pytest import config\nfrom _pytest.config import findpaths\n"
        "@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
        f"def pytest_load_initial_conftests():\n    {change}\n    return (yield)\n"
    )
    result = pytester.runpytest_subprocess("-p", "newer", "--phi3-adapter", elsewhere, *QUICK)
    said = result.stderr.str() + result.stdout.str()
    assert NEWER[change] in said
    assert "pip install 'pytest==" in said


@pytest.mark.parametrize(
    ("change", "status"),
    [("args.append('-q')", 0), ("args.insert(0, '-q')", 0), ("args[:] = []", 2)],
)
def test_other_plugins_may_add_arguments_and_are_no_matter_without_our_options(
    change: str, status: int, pytester: pytest.Pytester
) -> None:
    (pytester.path / "other.py").write_text(
        "import pytest\n@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
        f"def pytest_load_initial_conftests(args):\n    {change}\n    return (yield)\n"
    )
    (pytester.path / "test_own.py").write_text("def test_own(): pass\n")
    assert pytester.runpytest_subprocess("-p", "other").ret == 0
    result = pytester.runpytest_subprocess("-p", "other", "--phi3-seed=1")
    assert result.ret == status
    if status:
        assert "reads its configuration differently" in result.stderr.str()


def test_a_session_without_our_options_is_left_alone(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    (elsewhere.parent / "pytest.ini").write_text("[pytest]\naddopts = --phi3-seed=6\n")
    (elsewhere.parent / "test_theirs.py").write_text("def test_theirs(): pass\n")
    result = pytester.runpytest_subprocess(elsewhere.parent)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"rootdir: {elsewhere.parent}"])
