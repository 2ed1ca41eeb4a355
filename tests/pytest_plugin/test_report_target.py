"""A report is of the run that wrote it: no older PASS stands for another, and nothing is lost."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.record import load_record
from tests.pytest_plugin.builders import contents, place, run_only, settings_file

pytestmark = pytest.mark.slow


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
    result = run_only(
        pytester, f"--phi3-adapter={nan_adapter}", "--phi3-report=out", "--phi3-stage=static"
    )
    assert result.ret == 2, result.stdout.str()
    lines = [line for line in result.stderr.lines if line.startswith("Exit: ")]
    assert len(lines) == 1
    assert "the gate did not write it" in lines[0]
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
        result = run_only(
            pytester, f"--phi3-adapter={adapter}", "--phi3-report=out", "--phi3-stage=static"
        )
        assert result.ret == 2
        assert "summary.md: the gate did not write it, or it was changed" in result.stderr.str()
    assert contents(folder) == before


def test_a_file_that_appears_while_the_gate_runs_is_left_and_nothing_passes(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    place(pytester, {"test_own.py": "def test_it(): open('out/summary.md', 'a').write('mine')"})
    result = pytester.runpytest_subprocess(
        f"--phi3-adapter={good_adapter}",
        "--phi3-report=out",
        "--phi3-stage=static",
        "--phi3-base=tiny",
    )
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(["no report: *summary.md: the gate did not write it*"])
    assert (pytester.path / "out" / "summary.md").read_text(encoding="utf-8").endswith("mine")
    assert load_record(pytester.path / "out" / "record.json").verdict == "INCOMPLETE"


def test_no_report_goes_into_an_adapters_folder(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path]
) -> None:
    adapter = adapter_copy("theirs")
    (pytester.path / "link").symlink_to(adapter)
    before = contents(adapter)
    for place_ in (adapter, adapter / "report", pytester.path / "link" / "deep" / "er"):
        result = run_only(
            pytester, f"--phi3-adapter={adapter}", f"--phi3-report={place_}", "--phi3-stage=static"
        )
        assert result.ret == 2, result.stdout.str()
        assert "must not be written to the adapter's folder" in result.stderr.str()
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
    result = run_only(
        pytester,
        f"--phi3-adapter={good_adapter}",
        f"--phi3-report={spelt(report, accepted)}",
        f"--phi3-baseline={spelt(baseline, accepted)}/record.json",
        *([wrong] if wrong else []),
    )
    assert result.ret == 2, result.stdout.str()
    assert contents(accepted) == before
    if wrong != "--phi3-stage=no":
        assert "must not replace the baseline" in result.stderr.str()
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
    result = run_only(
        pytester,
        f"--phi3-adapter={good_adapter}",
        "--phi3-report=accepted",
        f"--phi3-baseline={baseline(accepted)}",
        "--phi3-stage=static",
    )
    assert result.ret == 2
    assert "must not replace the baseline" in result.stderr.str()
    assert contents(accepted) == before


def test_a_baseline_in_the_default_folder_of_an_adapter_of_that_name_is_safe(
    pytester: pytest.Pytester, good_adapter: Path, passed: Callable[..., Path]
) -> None:
    accepted = passed(f"reports/{good_adapter.name}")
    before = contents(accepted)
    settings_file('baseline = "reports/adapter/record.json"\n')(pytester.path)
    assert run_only(pytester, f"--phi3-adapter={good_adapter}", "--phi3-stage=static").ret == 2
    settings_file('baseline = "reports/adapter/record.json"\nseed =\n')(pytester.path)
    assert run_only(pytester, f"--phi3-adapter={good_adapter}", "--phi3-stage=static").ret == 2
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
    clash = run_only(
        pytester,
        *args,
        "--phi3-report=out",
        f"--phi3-baseline={accepted}/record.json",
        "--phi3-stage=static",
    )
    assert clash.ret == 2
    assert "must not replace the baseline" in clash.stderr.str()
    assert contents(accepted) == before[0]
    beside = run_only(
        pytester,
        f"--phi3-adapter={both / 'first'}",
        "--phi3-report=out/first",
        f"--phi3-baseline={other}/record.json",
        "--phi3-stage=static",
    )
    assert "must not replace the baseline" not in beside.stderr.str()
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
        f"--phi3-adapter={good_adapter}", "--phi3-report=out", "--phi3-stage=static",
        "-p", "no:cacheprovider",
    )  # fmt: skip
    assert resource
    assert result.ret == 2
    assert not (folder / "summary.md").exists()
    assert not (folder / "record.json").exists()
