"""The progress line is shown on terminals only, and is removed when a phase is done."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from phi3_lora_qa.pytest_plugin.progress_line import ProgressLine


class Writer:
    fullwidth = 40

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str, *, flush: bool) -> None:
        self.written.append(text)


def line(writer: Writer | None, *, isatty: bool = True, verbose: int = 0) -> ProgressLine:
    reporter = SimpleNamespace(isatty=isatty, **({"_tw": writer} if writer else {}))
    plugins: dict[str, Any] = {"terminalreporter": reporter}
    config = SimpleNamespace(
        pluginmanager=SimpleNamespace(getplugin=plugins.get),
        option=SimpleNamespace(verbose=verbose),
    )
    return ProgressLine(cast("pytest.Config", config))


def test_a_phase_is_shown_and_removed() -> None:
    writer = Writer()
    show = line(writer)
    show("score base", 0, 10)
    show("score base", 1, 10)  # too soon after the last update
    show("score base", 10, 10)
    assert [text.replace("\r\x1b[2K", "") for text in writer.written] == [
        "phi3: score base 0/10", "phi3: score base 10/10", "",
    ]  # fmt: skip


def test_a_long_line_is_cut_to_the_terminals_width() -> None:
    writer = Writer()
    line(writer)("x" * 100, 0, 0)
    assert len(writer.written[0].replace("\r\x1b[2K", "")) == writer.fullwidth - 1


@pytest.mark.parametrize("options", [{"isatty": False}, {"verbose": -1}])
def test_it_is_silent_elsewhere(options: dict[str, Any]) -> None:
    writer = Writer()
    line(writer, **options)("score base", 0, 10)
    assert writer.written == []


def test_a_pytest_without_its_private_writer_has_no_progress_line() -> None:
    line(None)("score base", 0, 10)
