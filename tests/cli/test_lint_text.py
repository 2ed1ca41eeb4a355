"""Tests of the text report."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import click
import pytest

from phi3_lora_qa.cli import lint_text
from tests.adapter.adapters import plain
from tests.adapter.faults import spoil
from tests.cli.builders import lint, with_programs


def test_one_error_fits_on_half_a_screen_and_ends_with_its_fix(tmp_path: Path) -> None:
    lines = lint(spoil(plain(), "nan", 0.5), tmp_path).splitlines()
    assert len(lines) <= 12
    (fix,) = [line.partition("fix: ")[2] for line in lines if "fix: " in line]
    assert lines[-2].startswith("start here: values-nan at base_model")
    assert lines[-1].strip() == fix


def test_findings_of_one_rule_are_folded(tmp_path: Path) -> None:
    text = lint(spoil(plain(), "no prefix", 0), tmp_path)
    assert len(text.splitlines()) < 30
    text = lint(with_programs(40), tmp_path / "programs")
    assert "files-code  40 places" in text
    assert text.count(": executable code") == lint_text.MAX_PLACES
    assert "and 37 more" in text
    assert text.count("fix: ") == 1
    two = lint(with_programs(2), tmp_path / "two")
    assert two.count(": executable code") == 2
    assert "more" not in two


def test_different_fixes_of_one_rule_are_all_shown(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config |= {"r": 0, "lora_alpha": "x"}
    text = lint(adapter, tmp_path)
    assert "config-value  2 places" in text
    assert "set r to the value" in text
    assert "set lora_alpha to the value" in text


def test_the_fix_for_split_projections_is_the_command_that_fuses_them(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["target_modules"] = ["q_proj", "o_proj"]
    adapter.rename(lambda name: name.replace("qkv_proj", "q_proj"))
    lines = lint(adapter, tmp_path).splitlines()
    assert "phi3-lora-qa convert fuse ADAPTER --base BASE -o DIR" in lines[-1]


def test_unchecked_rules_are_one_line_with_the_option_that_runs_them(tmp_path: Path) -> None:
    lines = [line for line in lint(plain(), tmp_path).splitlines() if "not checked" in line]
    assert len(lines) == 1
    assert "need the base (pass --base DIR_OR_ID)" in lines[0]


def test_ignored_rules_are_named_or_counted(tmp_path: Path) -> None:
    assert "\nignored: values-nan\n" in lint(plain(), tmp_path, "--ignore", "values-nan")
    text = lint(plain(), tmp_path, "--select", "files")
    assert "ignored: config-other-base, " in text
    assert " more\n" in text


def on_a_terminal(folder: Path, **environment: str) -> str:
    """Return what lint writes to a pseudo-terminal."""
    pty = pytest.importorskip("pty")
    control, terminal = pty.openpty()
    plain_environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    command = [sys.executable, "-m", "phi3_lora_qa", "lint", str(folder)]
    with subprocess.Popen(
        command, stdout=terminal, env=plain_environment | {"TERM": "xterm"} | environment
    ):
        os.close(terminal)
        written = b""
        with suppress(OSError):  # the terminal is closed on the other side
            while part := os.read(control, 1 << 16):
                written += part
    os.close(control)
    return written.decode()


def test_only_a_terminal_gets_colours(tmp_path: Path) -> None:
    folder = spoil(plain(), "nan", 0.5).save(tmp_path)
    shown = on_a_terminal(folder)
    assert "\x1b[31m\x1b[1mrejected\x1b[0m" in shown
    assert "\x1b[31merror   \x1b[0m\x1b[1mvalues-nan\x1b[0m" in shown
    piped = lint(spoil(plain(), "nan", 0.5), tmp_path)
    assert "\x1b" not in piped
    assert click.unstyle(shown).splitlines() == piped.splitlines()


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_without_colours_gets_none(setting: dict[str, str], tmp_path: Path) -> None:
    shown = on_a_terminal(plain().save(tmp_path), **setting)
    assert shown.startswith("accepted")
    assert "\x1b" not in shown


def test_the_text_format_imports_nothing_unnecessary(tmp_path: Path) -> None:
    program = (
        "import atexit, sys\n"
        "from phi3_lora_qa import cli\n"
        "unneeded = 'rich numpy torch statistics random traceback subprocess _hashlib'.split()\n"
        "atexit.register(lambda: print([n for n in unneeded if n in sys.modules]))\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, "lint", str(plain().save(tmp_path)), "--ignore",
               "values"]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.startswith("accepted")
    assert output.splitlines()[-1] == "[]"


def test_counts_are_of_places_and_agree_with_each_rule(tmp_path: Path) -> None:
    lines = lint(with_programs(40), tmp_path, "--level", "files-code=error").splitlines()
    assert lines[1].startswith("40 errors; ")
    assert any("files-code  40 places" in line for line in lines)


def test_rules_behind_an_error_are_counted_with_the_file_to_fix(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["r"] = 0
    text = lint(adapter, tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("not checked: ")]
    assert re.search(r"\d+ blocked until adapter_config.json is fixed \(.*19 values", line)
    assert " of 122 rules ran" in text.splitlines()[1]
