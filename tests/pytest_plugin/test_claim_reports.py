"""Earlier reports are replaced first: no older PASS remains for a run without a verdict."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa.record import load_record
from tests.pytest_plugin.builders import contents, require_no_verdict, run_only, settings_file

pytestmark = pytest.mark.slow


def conftest(text: str) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / "conftest.py").write_text(f"import os, signal\n{text}\n")
        return []

    return write


def options(*args: str) -> Callable[[Path], list[str]]:
    return lambda folder: list(args)


ENDS: dict[str, tuple[Callable[[Path], list[str]], int, str]] = {
    "an unknown stage": (options("--phi3-stage=maths"), 2, "'maths' is not a valid stage"),
    "an invalid seed": (options("--phi3-seed=x"), 2, "not a valid seed"),
    "no such suite": (options("--phi3-suite=no.jsonl"), 2, "no.jsonl"),
    "no such base": (options("--phi3-base=nothing/here"), 2, "nothing/here"),
    "no such baseline": (options("--phi3-baseline=no.json"), 2, "no.json"),
    "an unknown setting": (settings_file("sweet = 1\n"), 2, "unknown setting sweet"),
    "a broken settings file": (settings_file("seed =\n"), 2, "fix the TOML"),
    "the gate disabled": (options("-p", "no:phi3-lora-qa-gate"), 2, "disable the gate"),
    "an option that pytest lacks": (options("--no-such-option"), 4, "had just begun"),
    "a test that is not there": (options("tests/no.py"), 4, "exit status 4"),
    "a conftest that fails": (conftest("raise ValueError('no')"), 4, "had just begun"),
    "a process that is gone at once": (conftest("os._exit(0)"), 0, "had just begun"),
    "a kill": (conftest("os.kill(os.getpid(), signal.SIGKILL)"), -9, "had just begun"),
    "an end when the session starts": (
        conftest("import pytest\ndef pytest_sessionstart(): pytest.exit('no', returncode=9)"),
        9,
        "had just begun",
    ),
    "SIGTERM while tests are collected": (
        conftest("def pytest_collection(): os.kill(os.getpid(), signal.SIGTERM)"),
        143,
        "exit status 143",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_ends_before_a_verdict_says_so_where_another_passed(
    end: str, pytester: pytest.Pytester, good_adapter: Path, passed: Callable[..., Path]
) -> None:
    folder = passed()
    prepared, status, why = ENDS[end]
    args = prepared(pytester.path)
    if "-p" not in args and end.startswith("a test"):
        args = ["-o", "testpaths=", *args]
    result = pytester.runpytest_subprocess(
        "-p",
        "no:xdist",
        f"--phi3-adapter={good_adapter}",
        "--phi3-report=out",
        "--phi3-stage=static",
        *args,
    )
    assert result.ret == status, result.stdout.str() + result.stderr.str()
    require_no_verdict(folder, why)
    assert {p.name for p in folder.iterdir()} == {
        "record.json", "report.html", "summary.md", "report.sha256",
    }  # fmt: skip


def test_an_adapter_that_is_not_there_leaves_a_report_that_says_so(
    pytester: pytest.Pytester,
) -> None:
    assert run_only(pytester, "--phi3-adapter=nobody").ret == 2
    require_no_verdict(pytester.path / "reports" / "nobody", "no such folder")


def test_settings_in_the_adapters_folder_leave_no_older_report_and_choose_none(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path], passed: Callable[..., Path]
) -> None:
    adapter = adapter_copy("theirs")
    folder = passed()
    kept = passed("kept")
    before = contents(kept)
    (adapter / "pytest.ini").write_text(f"[pytest]\nphi3_report = {kept}\n")
    result = run_only(
        pytester, f"--phi3-adapter={adapter}", "--phi3-report=out", "-c", adapter / "pytest.ini"
    )
    assert result.ret == 2, result.stdout.str()
    require_no_verdict(folder, "adapter's own folder")
    assert run_only(pytester, f"--phi3-adapter={adapter}", "-c", adapter / "pytest.ini").ret == 2
    assert contents(kept) == before


def test_of_several_adapters_none_keeps_an_older_report_when_one_is_refused(
    pytester: pytest.Pytester, good_adapter: Path, passed: Callable[..., Path]
) -> None:
    both = pytester.path / "both"
    for name in ("first", "second"):
        shutil.copytree(good_adapter, both / name)
    args = [f"--phi3-adapter={both / name}" for name in ("first", "second")]
    for name in ("first", "second"):
        passed(f"out/{name}")
    shutil.rmtree(both / "second")
    assert (
        run_only(
            pytester, *args, "--phi3-report=out", "--phi3-stage=static", "--phi3-base=tiny"
        ).ret
        == 2
    )
    for name in ("first", "second"):
        require_no_verdict(pytester.path / "out" / name, "no such folder")


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (("--collect-only",), 2),
        (("--help",), 0),
        (("--fixtures",), 2),
        (("--markers",), 0),
        (("--version",) * 2, 0),
    ],
)
def test_a_session_that_only_tells_something_leaves_the_report_alone(
    args: tuple[str, ...],
    status: int,
    pytester: pytest.Pytester,
    good_adapter: Path,
    passed: Callable[..., Path],
) -> None:
    folder = passed()
    before = contents(folder)
    result = run_only(pytester, f"--phi3-adapter={good_adapter}", "--phi3-report=out", *args)
    assert result.ret == status, result.stdout.str()
    assert contents(folder) == before


def test_chosen_ids_leave_the_report_of_the_whole_run_alone(
    pytester: pytest.Pytester, good_adapter: Path, passed: Callable[..., Path]
) -> None:
    folder = passed()
    before = contents(folder)
    for status, more in ((0, "--phi3-base=tiny"), (2, "--phi3-base=nothing/here")):
        result = run_only(
            pytester,
            f"--phi3-adapter={good_adapter}",
            "--phi3-report=out",
            "--phi3-stage=static",
            "phi3::static::values",
            more,
        )
        assert result.ret == status, result.stdout.str()
        now = contents(folder)
        assert {name: now[name] for name in before} == before
    assert load_record(folder / "partial" / "record.json").verdict == "PARTIAL"
