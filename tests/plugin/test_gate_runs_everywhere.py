"""The gate inside a user's project, whatever that project does to its own tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.record import RunRecord, read_record

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ("--phi3-stage=static", "--phi3-stage=math")
"""Two stages stand for all where only collection and judging are in question."""


def record_of(pytester: pytest.Pytester, folder: str = "out") -> RunRecord:
    return read_record(pytester.path / folder / "record.json")


def gate(
    pytester: pytest.Pytester, adapter: Path, *args: str, stages: tuple[str, ...] = QUICK
) -> pytest.RunResult:
    return pytester.runpytest_inprocess(
        f"--phi3-adapter={adapter}", "--phi3-report=out", *stages, *args
    )


def test_a_good_adapter_passes_every_stage_in_an_empty_directory(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    result = gate(pytester, good_adapter, stages=())
    assert result.ret == 0, result.stdout.str()
    record = record_of(pytester)
    assert record.verdict == "PASS"
    assert {check.stage for check in record.checks} == {
        "static", "math", "checkpoint", "quality", "export",
    }  # fmt: skip
    assert {check.outcome for check in record.checks} == {"passed"}
    for name in ("report.html", "record.json", "summary.md", "items.parquet"):
        assert (pytester.path / "out" / name).is_file()
    result.stdout.fnmatch_lines(["*PASS adapter: all * checks ran and held*"])


def test_a_bad_adapter_fails_and_no_model_is_loaded(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    result = pytester.runpytest_subprocess(
        f"--phi3-adapter={nan_adapter}", "--phi3-report=out", "-p", "look"
    )
    assert result.ret == 1
    record = record_of(pytester)
    assert record.verdict == "FAIL"
    assert "NaN" in record.reason
    assert "lora_B" in record.reason
    later = [c for c in record.checks if c.stage != "static"]
    assert later
    assert {c.outcome for c in later} == {"not_run"}
    assert json.loads((pytester.path / "loaded.json").read_text()) == []


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


def place(pytester: pytest.Pytester, files: dict[str, str]) -> None:
    for name, text in files.items():
        (pytester.path / name).write_text(text)


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
    assert "gave no answer" in record.reason


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


def test_several_adapters_get_a_verdict_each_and_the_run_the_worst(
    pytester: pytest.Pytester, good_adapter: Path, nan_adapter: Path
) -> None:
    result = gate(pytester, good_adapter, f"--phi3-adapter={nan_adapter}")
    assert result.ret == 1
    assert record_of(pytester, "out/adapter").verdict == "PASS"
    assert record_of(pytester, "out/nan").verdict == "FAIL"
    result.stdout.fnmatch_lines(["FAIL for the run"])


def test_the_users_own_tests_get_the_models(pytester: pytest.Pytester, good_adapter: Path) -> None:
    pytester.makepyfile(
        """
        def test_tuned(phi3_adapter, phi3_base_model, phi3_tuned_model, phi3_tokenizer,
                       phi3_generate, phi3_compare):
            assert (phi3_adapter / "adapter_config.json").is_file()
            assert not hasattr(phi3_base_model, "peft_config") or not phi3_base_model.peft_config
            assert phi3_tuned_model.peft_config
            answers = phi3_compare("What colour is the robin?")
            assert answers.tuned == phi3_generate("What colour is the robin?")
        """
    )
    result = gate(pytester, good_adapter)
    assert result.ret == 0, result.stdout.str()


def test_without_an_adapter_the_fixtures_skip_and_say_why(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(phi3_tuned_model): pass")
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*--phi3-adapter PATH*"])


def test_rules_that_are_ignored_are_told_in_the_record(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    result = gate(
        pytester, nan_adapter, "--phi3-lint-ignore=values-nan", stages=("--phi3-stage=static",)
    )
    assert result.ret == 0
    record = record_of(pytester)
    assert record.settings["lint_ignore"].value == ["values-nan"]
    assert "ignored by settings" in record.reason
    (ran,) = [c for c in record.checks if c.id.endswith("every_rule_could_run")]
    assert ran.measured["ignored"] == ["values-nan"]


def test_a_family_that_is_ignored_whole_has_no_check_that_passes(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    only_static = ("--phi3-stage=static",)
    assert gate(pytester, nan_adapter, "--phi3-lint-ignore=values", stages=only_static).ret == 0
    names = {check.id.rpartition("::")[2] for check in record_of(pytester).checks}
    assert "values" not in names
    assert {"files", "every_rule_could_run"} <= names


def test_a_check_says_how_many_of_its_rules_ran(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path]
) -> None:
    assert gate(pytester, adapter_copy("bare"), stages=("--phi3-stage=static",)).ret == 0
    found = {check.id: check.message for check in record_of(pytester).checks}
    assert found["phi3::static::manifest"].startswith("1 of ")  # that there is none
    assert not found["phi3::static::files"].startswith("1 of ")


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


def test_a_verdict_over_some_stages_says_which_it_leaves_out(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    assert gate(pytester, good_adapter).ret == 0
    assert "stages left out: checkpoint, quality, export" in record_of(pytester).reason


def test_without_a_base_the_run_is_incomplete_and_names_the_option(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path]
) -> None:
    folder = adapter_copy("orphan")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"someone/else"'))
    assert gate(pytester, folder).ret == 1
    record = record_of(pytester)
    assert record.verdict == "INCOMPLETE"
    assert "--phi3-base" in record.reason


def test_a_report_that_cannot_be_written_at_the_end_fails_the_run_without_a_traceback(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    pytester.makepyfile(
        """
        import pathlib
        def test_takes_the_place_of_the_report():
            pathlib.Path("out/report.html").mkdir()
        """
    )
    result = gate(pytester, good_adapter)
    assert result.ret == 1, result.stdout.str()
    assert "no report: " in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


BAD_INPUT: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "no such adapter": (lambda tmp, good: [f"--phi3-adapter={tmp / 'no'}"], "no such folder"),
    "a file": (
        lambda tmp, good: [f"--phi3-adapter={good / 'adapter_config.json'}"],
        "is no folder",
    ),
    "no such base": (
        lambda tmp, good: [f"--phi3-adapter={good}", "--phi3-base=nothing/here"],
        "nothing/here",
    ),
    "a base that is no Phi-3": (
        lambda tmp, good: [f"--phi3-adapter={good}", f"--phi3-base={llama(tmp)}"],
        "llama",
    ),
    "no such suite": (
        lambda tmp, good: [f"--phi3-adapter={good}", "--phi3-suite=no.jsonl"],
        "no.jsonl",
    ),
    "a broken suite": (
        lambda tmp, good: [f"--phi3-adapter={good}", f"--phi3-suite={broken(tmp)}"],
        "broken.jsonl:1",
    ),
    "a report folder that is a file": (
        lambda tmp, good: [f"--phi3-adapter={good}", f"--phi3-report={broken(tmp)}"],
        "--phi3-report",
    ),
    "an unknown stage": (
        lambda tmp, good: [f"--phi3-adapter={good}", "--phi3-stage=maths"],
        "maths",
    ),
    "an unknown id": (lambda tmp, good: [f"--phi3-adapter={good}", "phi3::static::no"], "no check"),
}


def llama(folder: Path) -> Path:
    (folder / "llama").mkdir()
    (folder / "llama" / "config.json").write_text('{"model_type": "llama"}')
    return folder / "llama"


def broken(folder: Path) -> Path:
    path = folder / "broken.jsonl"
    path.write_text("{\n")
    return path


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_clear_line_and_status_2(
    pytester: pytest.Pytester,
    good_adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Any,
    words: str,
) -> None:
    result = pytester.runpytest_inprocess(*arguments(tmp_path, good_adapter))
    assert result.ret == 2, result.stdout.str()
    lines = [line for line in result.stderr.lines if line.startswith("Exit: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
