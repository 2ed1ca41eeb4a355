"""The exit status is true to the verdict, whatever a project's own plugins do to the session."""

import textwrap
from pathlib import Path

import pytest

from phi3_lora_qa.record import load_record
from tests.pytest_plugin.builders import run_static

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
    "all of ours unregistered as they come": """
        def pytest_plugin_registered(plugin, plugin_name, manager):
            if "phi3" in plugin_name:
                manager.unregister(plugin)
    """,
    "the plugin unregistered when pytest begins": """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_configure(config):
            config.pluginmanager.unregister(name="phi3_lora_qa")
    """,
    "another session in its place": """
        def pytest_sessionfinish(session):
            plugins = session.config.pluginmanager
            plugins.unregister(session)
            class Session: exitstatus = 0
            plugins.register(Session(), "session")
            session.exitstatus = 0
    """,
    "a stash without anything in it": """
        def pytest_sessionstart(session):
            stash = session.config.stash
            for key, value in list(stash._storage.items()):
                if type(value).__module__.startswith("phi3"):
                    del stash[key]
        def pytest_sessionfinish(session):
            session.exitstatus = 0
    """,
    "a process that seems a worker": """
        def pytest_configure(config):
            config.workerinput = {"workerid": "gw0"}
        def pytest_sessionfinish(session):
            session.exitstatus = 0
    """,
    "pytest's main part answered": """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_cmdline_main(config):
            return 0
    """,
    "pytest's main part wrapped": """
        import pytest
        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_cmdline_main(config):
            yield
            return 0
    """,
    "pytest's main part wrapped, and left": """
        import pytest, sys
        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_cmdline_main(config):
            yield
            config.add_cleanup(lambda: sys.exit(0))
            return 0
    """,
    "pytest told to help itself": """
        def pytest_configure(config):
            config.option.help = config.option.version = config.option.markers = True
    """,
    "left at the start of everything": "import sys; sys.exit(0)",
    "left for the options": "import sys\ndef pytest_addoption(parser): sys.exit()",
    "left after the options": """
        import sys
        def pytest_addoption(parser, pluginmanager):
            pluginmanager.get_plugin("pytestconfig").add_cleanup(lambda: sys.exit(0))
        raise OSError
    """,
    "left by an end that seems another": """
        class Ended(SystemExit): pass
        def pytest_sessionfinish(session):
            raise Ended(0)
        def pytest_unconfigure(config):
            raise Ended(256)
    """,
    "left by pytest's own exit, again and again": """
        import pytest
        def pytest_sessionfinish(session):
            raise SystemExit
        def pytest_unconfigure(config):
            pytest.exit("all fine", returncode=0)
    """,
    "left when all is cleaned": """
        import sys
        def pytest_configure(config):
            config.add_cleanup(lambda: sys.exit(0))
    """,
    "a number that only seems another": """
        class Zero(int):
            def __and__(self, other): return 1
            def __bool__(self): return True
            def __eq__(self, other): return False
            __hash__ = int.__hash__
        def pytest_sessionfinish(session):
            session.exitstatus = Zero(0)
    """,
} | {
    f"left in {hook}": f"import sys\ndef {hook}(): sys.exit(0)"
    for hook in (
        "pytest_configure", "pytest_sessionstart", "pytest_collection", "pytest_runtestloop",
        "pytest_runtest_logreport", "pytest_sessionfinish", "pytest_terminal_summary",
        "pytest_unconfigure",
    )
} | {
    f"a status of {status}": f"def pytest_sessionfinish(session): session.exitstatus = {status}"
    for status in (256, -256, 2**32, 2**70, None, "'0'", "''", False, 0.0, "[]", 2, 5)
} | {
    f"an exit with {status}": (
        f"import pytest\ndef pytest_collection(): pytest.exit('', returncode={status})"
    )
    for status in (0, 256, 5)
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "meddler"),
    [(".", name) for name in MEDDLERS] + [("below", name) for name in list(MEDDLERS)[:4]],
)
@pytest.mark.usefixtures("one_thread")
def test_no_conftest_makes_a_bad_adapter_exit_with_0(
    meddler: str, place: str, pytester: pytest.Pytester, nan_adapter: Path, good_adapter: Path
) -> None:
    folder = pytester.path / place
    folder.mkdir(exist_ok=True)
    (folder / "test_own.py").write_text("def test_own(): pass\n")
    text = textwrap.dedent(MEDDLERS[meddler]).replace("GOOD", repr(str(good_adapter)))
    (folder / "conftest.py").write_text(text)
    args = (f"--phi3-adapter={nan_adapter}", "--phi3-report=out", "--phi3-stage=static", place)
    if meddler.startswith("left"):
        result = pytester.runpytest_subprocess(*args)
    else:  # saves most of the time
        result = pytester.runpytest_inprocess(*args)
    record = pytester.path / "out" / "record.json"
    told = load_record(record)
    # What is recorded is the verdict, or that there was none.
    wanted = (2, 3, 4) if told.reason.startswith("no verdict: ") else (1,)
    assert result.ret in wanted, result.stdout.str() + result.stderr.str()
    assert told.verdict in ("FAIL", "INCOMPLETE")


def test_the_gate_cannot_be_disabled_by_name(pytester: pytest.Pytester, nan_adapter: Path) -> None:
    for name, says in (
        ("gate", "would disable the gate"),
        ("isolation", "would let pytest load the adapter's files"),
        ("layers", "would disable --phi3-layers"),
    ):
        result = run_static(pytester, nan_adapter, "-p", f"no:phi3-lora-qa-{name}", "--phi3-layers")
        assert result.ret == 2
        assert says in result.stderr.str()


@pytest.mark.parametrize(
    "words", ["--collect-only", "--co -q", "--fixtures", "--fixtures-per-test", "--cache-show",
              "--setup-plan", "--setup-only", "--collect-only -n2"],
)  # fmt: skip
def test_listing_or_planning_gives_no_verdict_and_a_nonzero_status(
    words: str, pytester: pytest.Pytester, good_adapter: Path
) -> None:
    result = run_static(pytester, good_adapter, *words.split())
    if "setup" in words:  # no check is called
        assert result.ret == 1
        assert load_record(pytester.path / "out" / "record.json").verdict == "INCOMPLETE"
    else:
        assert result.ret == 2
        assert result.stderr.str().count("Exit: no verdict") == 1


@pytest.mark.parametrize("words", ["--help", "--version --version", "--markers"])
def test_pytest_tells_about_itself_whatever_was_asked_for(
    words: str, pytester: pytest.Pytester, good_adapter: Path
) -> None:
    assert run_static(pytester, good_adapter).ret == 0
    for given in (good_adapter, ""):
        assert pytester.runpytest_subprocess(*words.split(), f"--phi3-adapter={given}").ret == 0
    assert (pytester.path / "out" / "record.json").exists()


def test_a_caller_of_pytest_in_its_own_process_gets_the_status_too(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    (pytester.path / "conftest.py").write_text("def pytest_cmdline_main(): return 0\n")
    (pytester.path / "calls.py").write_text(
        "import pytest, sys\n"
        f"found = pytest.main(['--phi3-adapter={nan_adapter}', '--phi3-stage=static'])\n"
        "assert found == 2, found\n"
        "assert pytest.main([]) == 0\n"
    )
    assert pytester.runpython(pytester.path / "calls.py").ret == 0


def test_a_plugin_that_a_conftest_names_gates_and_has_the_last_word(
    pytester: pytest.Pytester,
    nan_adapter: Path,
    good_adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (pytester.path / "conftest.py").write_text(
        "import sys\npytest_plugins = ['phi3_lora_qa.pytest_plugin.plugin']\n"
        "def pytest_sessionfinish(session): session.exitstatus = 0\n"
        "def pytest_cmdline_main(config): config.add_cleanup(lambda: sys.exit(0))\n"
    )
    assert run_static(pytester, good_adapter).ret == 0
    assert run_static(pytester, nan_adapter).ret == 1
    assert run_static(pytester, good_adapter, "--co").ret == 2


def test_a_good_adapter_still_exits_with_0(pytester: pytest.Pytester, good_adapter: Path) -> None:
    (pytester.path / "conftest.py").write_text(
        "def pytest_configure(config):\n    config.option.phi3_seed = 5\n"
    )
    assert run_static(pytester, good_adapter, "--phi3-base=tiny").ret == 0
    assert load_record(pytester.path / "out" / "record.json").settings["seed"].value == 0


def test_an_older_report_does_not_stand_for_a_run_that_was_killed(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    assert run_static(pytester, good_adapter).ret == 0
    killer = "import os\ndef pytest_sessionstart(session):\n    os._exit(0)\n"
    (pytester.path / "conftest.py").write_text(killer)
    run_static(pytester, good_adapter)
    assert load_record(pytester.path / "out" / "record.json").verdict == "INCOMPLETE"
    assert "PASS" not in (pytester.path / "out" / "summary.md").read_text(encoding="utf-8")


def test_listing_the_tests_leaves_the_report_alone(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    run_static(pytester, good_adapter)
    assert run_static(pytester, good_adapter, "--collect-only").ret == 2
    assert load_record(pytester.path / "out" / "record.json").verdict == "PASS"
