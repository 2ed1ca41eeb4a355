"""Runs the gate inside a user's project, and reads what it recorded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa.record import RunRecord, load_record

QUICK = ("--phi3-stage=static", "--phi3-stage=math")
"""Two fast stages, for tests of collection and judging."""


def record_of(pytester: pytest.Pytester, folder: str = "out") -> RunRecord:
    return load_record(pytester.path / folder / "record.json")


def gate(
    pytester: pytest.Pytester, adapter: Path, *args: str, stages: tuple[str, ...] = QUICK
) -> pytest.RunResult:
    return pytester.runpytest_inprocess(
        f"--phi3-adapter={adapter}", "--phi3-report=out", *stages, *args
    )


def place(pytester: pytest.Pytester, files: dict[str, str]) -> None:
    for name, text in files.items():
        (pytester.path / name).write_text(text)


SAMPLE = Path(__file__).parents[2] / "reports" / "sample"
"""The report of an accepted adapter, as an earlier run would have left it."""


def run_static(pytester: pytest.Pytester, adapter: Path, *args: str) -> pytest.RunResult:
    """Run the static stage on an adapter in another process, next to the user's tests."""
    return pytester.runpytest_subprocess(
        f"--phi3-adapter={adapter}", "--phi3-report=out", "--phi3-stage=static", *args
    )


def run_only(pytester: pytest.Pytester, *args: object) -> pytest.RunResult:
    """Run the gate without the user's tests in another process."""
    return pytester.runpytest_subprocess("-p", "no:xdist", "--phi3-only", *map(str, args))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder, by its relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def require_no_verdict(folder: Path, why: str) -> None:
    """Require a report without a verdict in all of its files."""
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
    """Return a function that writes a settings file into a folder, and needs no options."""

    def write(folder: Path) -> list[str]:
        (folder / "phi3-lora-qa.toml").write_text(text)
        return []

    return write
