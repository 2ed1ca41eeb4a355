"""An unusable path on the command line is one line and exit status 2, and never blocks."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from phi3_lora_qa.__main__ import main
from phi3_lora_qa.models.registry import bundled
from tests.unreadable_paths import UNREADABLE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX-specific")

SUITE = str(bundled("tiny/suite.jsonl"))
ADAPTER = str(bundled("tiny/adapter"))
COMMANDS: dict[str, tuple[list[str], str]] = {
    "lint": (["lint", "PATH"], ""),
    "lint --base": (["lint", ADAPTER, "--base", "PATH"], ""),
    "base info": (["base", "info", "PATH"], ""),
    "report": (["report", "PATH"], ".json"),
    "suite of lines": (["suite", "check", "PATH"], ".jsonl"),
    "suite as a table": (["suite", "check", "PATH"], ".csv"),
    "suite as Parquet": (["suite", "check", "PATH"], ".parquet"),
    "suite --train": (["suite", "check", SUITE, "--train", "PATH"], ".jsonl"),
    "train": (["train", "PATH"], ".toml"),
    "checkpoint": (
        ["convert", "loralib-to-peft", "PATH", "-o", "OUT", "--base", "tiny", "--alpha", "1"],
        ".safetensors",
    ),
    "fuse": (["convert", "fuse", "PATH", "-o", "OUT", "--base", "tiny"], ""),
    "peft-to-loralib": (["convert", "peft-to-loralib", "PATH", "-o", "OUT.safetensors"], ""),
}
IMPOSSIBLE = ("NUL", "surrogate")
"""Paths that no system passes as an argument."""
ELSEWHERE = {("lint", "folder"), ("lint --base", "empty")}
"""Cases that are not errors of the path: an empty folder, and an empty --base."""


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("the command blocks")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def status_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["phi3-lora-qa", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in UNREADABLE if kind not in IMPOSSIBLE])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_unusable_path_is_one_line(
    command: str,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if (command, kind) in ELSEWHERE:
        pytest.skip("not an error of the path")
    monkeypatch.chdir(tmp_path)
    arguments, suffix = COMMANDS[command]
    path = str(UNREADABLE[kind](tmp_path / f"x{suffix}"))
    if path.startswith("/dev/"):
        link = tmp_path / f"device{suffix}"
        link.symlink_to(path)
        path = str(link)
    status = status_of([path if a == "PATH" else a for a in arguments], monkeypatch)
    captured = capsys.readouterr()
    assert status == 2, captured
    (line,) = captured.err.splitlines()
    assert line.startswith("phi3-lora-qa: error: ")
    assert "; " in line or kind == "long path"
    assert "internal error in phi3-lora-qa" not in line
    assert captured.out == ""


@pytest.mark.parametrize("output", ["", "a" * 300 + ".safetensors", "/dev/null/x.safetensors"])
def test_an_output_that_cannot_be_written_is_one_line(
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["convert", "peft-to-loralib", ADAPTER, "-o", output]
    assert status_of(arguments, monkeypatch) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
