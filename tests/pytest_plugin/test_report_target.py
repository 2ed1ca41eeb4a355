"""A report is of the run that wrote it: no older PASS stands for another, and nothing is lost."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.record import load_record
from tests.pytest_plugin.running import place

pytestmark = pytest.mark.slow

BASE = "--phi3-base=tiny"
STATIC = "--phi3-stage=static"
SAMPLE = Path(__file__).parents[2] / "reports" / "sample"


@pytest.fixture(autouse=True)
def as_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may run in a worker of xdist; the runs in them don't."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def run(pytester: pytest.Pytester, *args: object) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:xdist", "--phi3-only", *map(str, args))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def passed(pytester: pytest.Pytester) -> Callable[..., Path]:
    """A function that puts an earlier report, with PASS, into a folder."""
    assert "PASS" in (SAMPLE / "summary.md").read_text(encoding="utf-8")

    def put(folder: str = "out") -> Path:
        shutil.copytree(SAMPLE, pytester.path / folder)
        return pytester.path / folder

    return put


def require_no_verdict(folder: Path, why: str) -> None:
    record = load_record(folder / "record.json")
    assert record.verdict == "INCOMPLETE"
    assert record.reason.startswith("no verdict")
    assert why in record.reason
    summary = (folder / "summary.md").read_text(encoding="utf-8")
    page = (folder / "report.html").read_text(encoding="utf-8").partition("<header")[2]
    for text in (summary, page.partition("<script>")[0]):
        assert "INCOMPLETE" in text
        assert "PASS" not in text
    assert not (folder / "items.parquet").exists()


def settings_file(text: str) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / "phi3-lora-qa.toml").write_text(text)
        return []

    return write


def conftest(text: str) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / "conftest.py").write_text(f"import os, signal\n{text}\n")
        return []

    return write


def options(*args: str) -> Callable[[Path], list[str]]:
    return lambda folder: list(args)


ENDS: dict[str, tuple[Callable[[Path], list[str]], int, str]] = {
    "an unknown stage": (options("--phi3-stage=maths"), 2, "'maths' is not a valid stage"),
    "a seed that is none": (options("--phi3-seed=x"), 2, "is not a valid seed"),
    "no such suite": (options("--phi3-suite=no.jsonl"), 2, "no.jsonl"),
    "no such base": (options("--phi3-base=nothing/here"), 2, "nothing/here"),
    "no such baseline": (options("--phi3-baseline=no.json"), 2, "no.json"),
    "an unknown setting": (settings_file("sweet = 1\n"), 2, "unknown setting sweet"),
    "a broken settings file": (settings_file("seed =\n"), 2, "fix the TOML"),
    "the gate switched off": (options("-p", "no:phi3-lora-qa-gate"), 2, "switch the gate off"),
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
        "-p", "no:xdist", f"--phi3-adapter={good_adapter}", "--phi3-report=out", STATIC, *args
    )
    assert result.ret == status, result.stdout.str() + result.stderr.str()
    require_no_verdict(folder, why)
    assert {p.name for p in folder.iterdir()} == {
        "record.json", "report.html", "summary.md", "report.sha256",
    }  # fmt: skip


def test_an_adapter_that_is_not_there_leaves_a_report_that_says_so(
    pytester: pytest.Pytester,
) -> None:
    assert run(pytester, "--phi3-adapter=nobody").ret == 2
    require_no_verdict(pytester.path / "reports" / "nobody", "no such folder")


def test_settings_in_the_adapters_folder_leave_no_older_report_and_choose_none(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path], passed: Callable[..., Path]
) -> None:
    adapter = adapter_copy("theirs")
    folder = passed()
    kept = passed("kept")
    before = contents(kept)
    (adapter / "pytest.ini").write_text(f"[pytest]\nphi3_report = {kept}\n")
    result = run(
        pytester, f"--phi3-adapter={adapter}", "--phi3-report=out", "-c", adapter / "pytest.ini"
    )
    assert result.ret == 2, result.stdout.str()
    require_no_verdict(folder, "adapter's own folder")
    assert run(pytester, f"--phi3-adapter={adapter}", "-c", adapter / "pytest.ini").ret == 2
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
    assert run(pytester, *args, "--phi3-report=out", STATIC, BASE).ret == 2
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
    result = run(pytester, f"--phi3-adapter={good_adapter}", "--phi3-report=out", *args)
    assert result.ret == status, result.stdout.str()
    assert contents(folder) == before


def test_chosen_ids_leave_the_report_of_the_whole_run_alone(
    pytester: pytest.Pytester, good_adapter: Path, passed: Callable[..., Path]
) -> None:
    folder = passed()
    before = contents(folder)
    for status, more in ((0, BASE), (2, "--phi3-base=nothing/here")):
        result = run(
            pytester,
            f"--phi3-adapter={good_adapter}",
            "--phi3-report=out",
            STATIC,
            "phi3::static::values",
            more,
        )
        assert result.ret == status, result.stdout.str()
        now = contents(folder)
        assert {name: now[name] for name in before} == before
    assert load_record(folder / "partial" / "record.json").verdict == "PARTIAL"


# What the gate did not write

OWN: dict[str, dict[str, str]] = {
    "a record of one's own": {"record.json": '{"mine": 1}'},
    "a summary of one's own": {"summary.md": "mine"},
    "a table of one's own": {"items.parquet": "mine"},
    "a page of one's own": {"report.html": "<p>mine</p>"},
    "a list of one's own": {"report.sha256": "mine"},
    "all of them": dict.fromkeys(("record.json", "summary.md", "report.html"), "mine"),
}


@pytest.mark.parametrize("own", OWN)
def test_files_of_the_users_own_are_refused_before_anything_is_run(
    own: str, pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    folder = pytester.mkdir("out")
    for name, text in OWN[own].items():
        (folder / name).write_text(text)
    before = contents(folder)
    result = run(pytester, f"--phi3-adapter={nan_adapter}", "--phi3-report=out", STATIC)
    assert result.ret == 2, result.stdout.str()
    lines = [line for line in result.stderr.lines if line.startswith("Exit: ")]
    assert len(lines) == 1
    assert "was not written by the gate" in lines[0]
    assert "--phi3-report DIR" in lines[0]
    assert contents(folder) == before


def test_a_report_that_the_user_wrote_into_is_theirs(
    pytester: pytest.Pytester, good_adapter: Path, nan_adapter: Path, passed: Callable[..., Path]
) -> None:
    folder = passed()
    with (folder / "summary.md").open("a") as stream:
        stream.write("Signed off by Ida.\n")
    before = contents(folder)
    for adapter in (good_adapter, nan_adapter):
        result = run(pytester, f"--phi3-adapter={adapter}", "--phi3-report=out", STATIC)
        assert result.ret == 2
        assert "summary.md was not written by the gate, or was changed" in result.stderr.str()
    assert contents(folder) == before


def test_a_file_that_appears_while_the_gate_runs_is_left_and_nothing_passes(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    place(pytester, {"test_own.py": "def test_it(): open('out/summary.md', 'a').write('mine')"})
    result = pytester.runpytest_subprocess(
        f"--phi3-adapter={good_adapter}", "--phi3-report=out", STATIC, BASE
    )
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(["no report: *summary.md was not written by the gate*"])
    assert (pytester.path / "out" / "summary.md").read_text(encoding="utf-8").endswith("mine")
    assert load_record(pytester.path / "out" / "record.json").verdict == "INCOMPLETE"


def test_no_report_goes_into_an_adapters_folder(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path]
) -> None:
    adapter = adapter_copy("theirs")
    (pytester.path / "link").symlink_to(adapter)
    before = contents(adapter)
    for place_ in (adapter, adapter / "report", pytester.path / "link" / "deep" / "er"):
        result = run(pytester, f"--phi3-adapter={adapter}", f"--phi3-report={place_}", STATIC)
        assert result.ret == 2, result.stdout.str()
        assert "lies in the adapter's own folder" in result.stderr.str()
    assert contents(adapter) == before


# Baselines


def spelt(form: str, folder: Path) -> str:
    match form:
        case "as it is":
            return str(folder)
        case "with dots":
            return f"{folder}/../{folder.name}/."
        case "relative":
            return folder.name
        case "a link":
            (folder.parent / "link").symlink_to(folder)
            return str(folder.parent / "link")
    raise AssertionError(form)


@pytest.mark.parametrize(
    ("report", "baseline", "wrong"),
    [
        ("as it is", "as it is", ""),
        ("with dots", "as it is", ""),
        ("as it is", "relative", ""),
        ("a link", "as it is", ""),
        ("as it is", "a link", ""),
        ("as it is", "as it is", "--phi3-stage=no"),
        ("as it is", "as it is", "--phi3-suite=no.jsonl"),
    ],
)
def test_a_report_never_takes_the_baselines_place(
    report: str,
    baseline: str,
    wrong: str,
    pytester: pytest.Pytester,
    good_adapter: Path,
    passed: Callable[..., Path],
) -> None:
    accepted = passed("accepted")
    before = contents(accepted)
    result = run(
        pytester,
        f"--phi3-adapter={good_adapter}",
        f"--phi3-report={spelt(report, accepted)}",
        f"--phi3-baseline={spelt(baseline, accepted)}/record.json",
        *([wrong] if wrong else []),
    )
    assert result.ret == 2, result.stdout.str()
    assert contents(accepted) == before
    if wrong != "--phi3-stage=no":
        assert "take the place of the baseline" in result.stderr.str()
        assert "--phi3-report DIR" in result.stderr.str()


def links_of(folder: Path, name: str) -> Path:
    """A folder of links to a record and its items, each of which may be a baseline."""
    links = folder.parent / "links"
    links.mkdir()
    for file in ("record.json", "items.parquet"):
        (links / file).symlink_to(folder / file)
    return links / name


@pytest.mark.parametrize(
    "baseline",
    [
        lambda accepted: accepted,
        lambda accepted: links_of(accepted, "record.json"),
        lambda accepted: accepted.parent / "accepted.json",
    ],
    ids=["the folder itself", "links to its files", "a link to the record alone"],
)
def test_a_baseline_is_found_through_links_and_slips(
    baseline: Callable[[Path], Any],
    pytester: pytest.Pytester,
    good_adapter: Path,
    passed: Callable[..., Path],
) -> None:
    accepted = passed("accepted")
    (pytester.path / "accepted.json").symlink_to(accepted / "record.json")
    before = contents(accepted)
    result = run(
        pytester,
        f"--phi3-adapter={good_adapter}",
        "--phi3-report=accepted",
        f"--phi3-baseline={baseline(accepted)}",
        STATIC,
    )
    assert result.ret == 2
    assert "take the place of the baseline" in result.stderr.str()
    assert contents(accepted) == before


def test_a_baseline_in_the_default_folder_of_an_adapter_of_that_name_is_safe(
    pytester: pytest.Pytester, good_adapter: Path, passed: Callable[..., Path]
) -> None:
    accepted = passed(f"reports/{good_adapter.name}")
    before = contents(accepted)
    settings_file('baseline = "reports/adapter/record.json"\n')(pytester.path)
    assert run(pytester, f"--phi3-adapter={good_adapter}", STATIC).ret == 2
    settings_file('baseline = "reports/adapter/record.json"\nseed =\n')(pytester.path)
    assert run(pytester, f"--phi3-adapter={good_adapter}", STATIC).ret == 2
    assert contents(accepted) == before


def test_a_baseline_among_the_folders_of_several_adapters_is_safe_and_another_is_no_hindrance(
    pytester: pytest.Pytester, good_adapter: Path, passed: Callable[..., Path]
) -> None:
    both = pytester.path / "both"
    for name in ("first", "second"):
        shutil.copytree(good_adapter, both / name)
    accepted = passed("out/second")
    other = passed("out/other")
    before = contents(accepted), contents(other)
    args = [f"--phi3-adapter={both / name}" for name in ("first", "second")]
    clash = run(
        pytester, *args, "--phi3-report=out", f"--phi3-baseline={accepted}/record.json", STATIC
    )
    assert clash.ret == 2
    assert "take the place of the baseline" in clash.stderr.str()
    assert contents(accepted) == before[0]
    beside = run(
        pytester,
        f"--phi3-adapter={both / 'first'}",
        "--phi3-report=out/first",
        f"--phi3-baseline={other}/record.json",
        STATIC,
    )
    assert "take the place of the baseline" not in beside.stderr.str()
    assert contents(other) == before[1]


def test_a_report_that_cannot_be_written_leaves_no_older_pass(
    pytester: pytest.Pytester, good_adapter: Path, passed: Callable[..., Path]
) -> None:
    """To take the older one away needs no room on the disk."""
    resource = pytest.importorskip("resource")
    folder = passed()
    result = pytester.run(
        sys.executable,
        "-c",
        "import resource, signal, sys, pytest\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "sys.exit(pytest.main(sys.argv[1:]))",
        f"--phi3-adapter={good_adapter}", "--phi3-report=out", STATIC, "-p", "no:cacheprovider",
    )  # fmt: skip
    assert resource
    assert result.ret == 2
    assert not (folder / "summary.md").exists()
    assert not (folder / "record.json").exists()
