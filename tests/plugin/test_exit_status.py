"""The exit status is true to the verdict, whatever a project's own plugins do to the session."""

import shutil
import textwrap
from pathlib import Path

import pytest

from phi3_lora_qa.record import read_record

pytestmark = pytest.mark.slow

MEDDLERS = {
    "an exit with 0 when the session ends": """
        import pytest
        def pytest_sessionfinish(session):
            pytest.exit("all fine", returncode=0)
    """,
    "a wrapper that sets the status last": """
        import pytest
        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_sessionfinish(session):
            result = yield
            session.exitstatus = 0
            return result
    """,
    "a status set when pytest leaves": """
        def pytest_unconfigure(config):
            config.pluginmanager.get_plugin("session").exitstatus = 0
    """,
    "an adapter taken away": """
        def pytest_configure(config):
            config.option.phi3_adapter = None
    """,
    "an adapter exchanged for a good one": """
        def pytest_configure(config):
            config.option.phi3_adapter = [GOOD]
    """,
    "tests that are only listed": """
        def pytest_configure(config):
            config.option.collectonly = True
    """,
    "an exit with 0 before anything is configured": """
        import pytest
        def pytest_configure(config):
            pytest.exit("all fine", returncode=0)
    """,
    "an exit with 0 when the session starts": """
        import pytest
        def pytest_sessionstart(session):
            pytest.exit("all fine", returncode=0)
    """,
    "a gate that is unregistered": """
        def pytest_sessionstart(session):
            plugins = session.config.pluginmanager
            plugins.unregister(name="phi3-lora-qa-gate")
    """,
}


def run(pytester: pytest.Pytester, adapter: Path, *args: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        f"--phi3-adapter={adapter}", "--phi3-report=out", "--phi3-stage=static", *args
    )


@pytest.mark.parametrize("meddler", MEDDLERS)
@pytest.mark.parametrize("place", [".", "below"])
def test_no_conftest_makes_a_bad_adapter_exit_with_0(
    meddler: str, place: str, pytester: pytest.Pytester, nan_adapter: Path, good_adapter: Path
) -> None:
    folder = pytester.path / place
    folder.mkdir(exist_ok=True)
    (folder / "test_own.py").write_text("def test_own(): pass\n")
    text = textwrap.dedent(MEDDLERS[meddler]).replace("GOOD", repr(str(good_adapter)))
    (folder / "conftest.py").write_text(text)
    result = run(pytester, nan_adapter, place)
    assert result.ret not in (0, 5), result.stdout.str()
    record = pytester.path / "out" / "record.json"
    assert not record.exists() or read_record(record).verdict != "PASS"


def test_the_gate_cannot_be_switched_off_by_name(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    result = run(pytester, nan_adapter, "-p", "no:phi3-lora-qa-gate")
    assert result.ret == 2
    assert "would switch the gate off" in result.stderr.str()


def test_a_good_adapter_still_exits_with_0(pytester: pytest.Pytester, good_adapter: Path) -> None:
    (pytester.path / "conftest.py").write_text(
        "def pytest_configure(config):\n    config.option.phi3_seed = 5\n"
    )
    assert run(pytester, good_adapter, "--phi3-base=tiny").ret == 0
    assert read_record(pytester.path / "out" / "record.json").settings["seed"].value == 0


def test_an_older_report_does_not_stand_for_a_run_that_was_killed(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    assert run(pytester, good_adapter).ret == 0
    killer = "import os\ndef pytest_sessionstart(session):\n    os._exit(0)\n"
    (pytester.path / "conftest.py").write_text(killer)
    run(pytester, good_adapter)
    assert read_record(pytester.path / "out" / "record.json").verdict == "INCOMPLETE"
    assert "PASS" not in (pytester.path / "out" / "summary.md").read_text(encoding="utf-8")


def test_listing_the_tests_leaves_the_report_alone(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    run(pytester, good_adapter)
    assert run(pytester, good_adapter, "--collect-only").ret == 0
    assert read_record(pytester.path / "out" / "record.json").verdict == "PASS"


@pytest.mark.parametrize("form", ["phi3::static::values", "../phi3::static::values"])
def test_an_id_runs_again_under_xdist_too(
    form: str, pytester: pytest.Pytester, good_adapter: Path, nan_adapter: Path
) -> None:
    for adapter, status in ((good_adapter, 0), (nan_adapter, 1)):
        result = run(pytester, adapter, "-n2", form)
        assert result.ret == status, result.stdout.str()
        record = read_record(pytester.path / "out" / "partial" / "record.json")
        assert record.verdict == "PARTIAL"
        assert "values" in {check.id.rpartition("::")[2] for check in record.checks}


def test_only_leaves_the_users_tests_out_of_the_workers_too(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    (pytester.path / "test_user.py").write_text("def test_no(): assert False\n")
    result = run(pytester, good_adapter, "-n2", "--phi3-only")
    assert result.ret == 0, result.stdout.str()


@pytest.mark.parametrize(("seed", "words"), [("-1", "from 0 to"), ("x", "whole number")])
def test_a_seed_that_is_none_is_bad_input(
    seed: str, words: str, pytester: pytest.Pytester, good_adapter: Path
) -> None:
    result = run(pytester, good_adapter, f"--phi3-seed={seed}")
    assert result.ret == 2
    assert words in result.stderr.str()


def test_a_base_in_a_file_is_relative_to_that_file(
    pytester: pytest.Pytester, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "models").mkdir()
    base = good_adapter.parent / "base"
    (pytester.path / "models" / "b").symlink_to(base, target_is_directory=True)
    (pytester.path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\n[tool.phi3_lora_qa]\nbase = "models/b"\n'
    )
    monkeypatch.chdir(pytester.mkdir("below"))
    result = run(pytester, good_adapter)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()


def test_a_folder_of_adapters_ends_with_2_and_names_those_to_choose_from(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    both = pytester.path / "both"
    for name in ("first", "second"):
        shutil.copytree(good_adapter, both / name)
    result = run(pytester, both)
    assert result.ret == 2
    said = result.stdout.str() + result.stderr.str()
    assert f"give one of them: {both / 'first'}, {both / 'second'}" in said
