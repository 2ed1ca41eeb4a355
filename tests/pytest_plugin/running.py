"""How the tests run the gate inside a user's project, and read what it recorded."""

from pathlib import Path

import pytest

from phi3_lora_qa.record import RunRecord, load_record

QUICK = ("--phi3-stage=static", "--phi3-stage=math")
"""Two stages stand for all where only collection and judging are in question."""


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
