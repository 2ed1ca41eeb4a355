"""What the forms of a lint report leave out, fold and repeat, and what ends a command."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest

from phi3_lora_qa.cli import lint_text
from tests.adapter.adapters import Adapter, plain
from tests.adapter.faults import spoil
from tests.cli.test_lint import run


def lint(adapter: Adapter, folder: Path, *arguments: str) -> str:
    return run("lint", adapter.save(folder), *arguments).stdout


def programs(count: int) -> Adapter:
    adapter = plain()
    adapter.files = {f"{number}.sh": b"" for number in range(count)}
    return adapter


def log(adapter: Adapter, folder: Path, *arguments: str) -> dict[str, Any]:
    (one,) = json.loads(lint(adapter, folder, "--format", "sarif", *arguments))["runs"]
    assert isinstance(one, dict)
    return one


def test_one_error_fits_on_half_a_screen_and_ends_with_its_mend(tmp_path: Path) -> None:
    lines = lint(spoil(plain(), "nan", 0.5), tmp_path).splitlines()
    assert len(lines) <= 12
    (fix,) = [line.partition("fix: ")[2] for line in lines if "fix: " in line]
    assert lines[-2].startswith("mend first: values-nan at base_model")
    assert lines[-1].strip() == fix


def test_findings_of_one_rule_are_folded(tmp_path: Path) -> None:
    text = lint(spoil(plain(), "no prefix", 0), tmp_path)
    assert len(text.splitlines()) < 30
    text = lint(programs(40), tmp_path / "programs")
    assert "files-code  40 places" in text
    assert text.count(": this is a program") == lint_text.MAX_PLACES
    assert "and 37 more" in text
    assert text.count("fix: ") == 1
    two = lint(programs(2), tmp_path / "two")
    assert two.count(": this is a program") == 2
    assert "more" not in two


def test_findings_with_mends_of_their_own_show_each(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config |= {"r": 0, "lora_alpha": "x"}
    text = lint(adapter, tmp_path)
    assert "config-value  2 places" in text
    assert "set r to the value" in text
    assert "set lora_alpha to the value" in text


def test_an_adapter_for_split_projections_is_told_the_command_that_fuses_it(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["target_modules"] = ["q_proj", "o_proj"]
    adapter.rename(lambda name: name.replace("qkv_proj", "q_proj"))
    lines = lint(adapter, tmp_path).splitlines()
    assert "phi3-lora-qa convert fuse ADAPTER --base BASE -o DIR" in lines[-1]


def test_what_was_not_checked_is_one_line_with_the_option_that_changes_it(tmp_path: Path) -> None:
    lines = [line for line in lint(plain(), tmp_path).splitlines() if "not checked" in line]
    assert len(lines) == 1
    assert "for want of a base (give --base DIR_OR_ID)" in lines[0]


def test_ignored_rules_are_named_or_counted(tmp_path: Path) -> None:
    assert "\nignored: values-nan\n" in lint(plain(), tmp_path, "--ignore", "values-nan")
    text = lint(plain(), tmp_path, "--select", "files")
    assert "ignored: config-field-missing, " in text
    assert " more\n" in text


def test_github_is_told_what_was_ignored_and_not_checked(tmp_path: Path) -> None:
    lines = lint(plain(), tmp_path, "--format", "github", "--ignore", "values-nan").splitlines()
    assert "::notice title=rules ignored::values-nan" in lines
    assert any(
        line.startswith("::notice title=rules not checked::") and "--base" in line for line in lines
    )


def test_sarif_is_told_what_was_ignored_and_not_checked(tmp_path: Path) -> None:
    one = log(plain(), tmp_path, "--ignore", "values-nan")
    (invocation,) = one["invocations"]
    assert invocation["executionSuccessful"]
    assert invocation["exitCode"] == 0
    (override,) = invocation["ruleConfigurationOverrides"]
    rules = one["tool"]["driver"]["rules"]
    assert rules[override["descriptor"]["index"]]["id"] == "values-nan"
    assert override["configuration"] == {"enabled": False}
    (note,) = invocation["toolConfigurationNotifications"]
    assert "--base" in note["message"]["text"]
    assert invocation["properties"]["ignored"] == ["values-nan"]
    assert any("needs the base" in text for text in invocation["properties"]["unchecked"])


def test_sarif_places_a_finding_in_the_file_that_it_names(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = {"!a:b.py": b"", "!{0}](x).py": b""} | programs(11).files
    adapter.config["r"] = "{0} [more](http://x)"
    results = log(adapter, tmp_path)["results"]
    names = [
        (result["ruleId"], place["physicalLocation"]["artifactLocation"]["uri"])
        for result in results
        for place in result["locations"]
    ]
    folder = f"file://{tmp_path}"
    assert ("files-code", f"{folder}/%21a%3Ab.py") in names
    assert ("config-value", f"{folder}/adapter_config.json") in names
    assert names[-1] == ("files-code", folder)  # it counts the others
    (text,) = [r["message"]["text"] for r in results if r["ruleId"] == "config-value"]
    assert "{{0}}" in text
    assert "](" not in text


@pytest.mark.parametrize("form", ["text", "json", "github", "sarif"])
@pytest.mark.parametrize("sink", ["a closed pipe", "a full disk"])
def test_output_that_cannot_be_written_is_no_rejection(
    sink: str, form: str, tmp_path: Path
) -> None:
    folder = plain().save(tmp_path)
    command = [sys.executable, "-m", "phi3_lora_qa", "lint", str(folder), "--format", form]
    if sink == "a closed pipe":
        reader, output = os.pipe()
        os.close(reader)
    elif Path("/dev/full").exists():
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        pytest.skip("this system has no full disk at hand")
    result = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    os.close(output)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("phi3-lora-qa: error: the output cannot be written")


def test_a_fault_of_our_own_is_no_rejection(tmp_path: Path) -> None:
    program = (
        "from phi3_lora_qa import cli\n"
        "import phi3_lora_qa.cli.lint as lint\n"
        "lint.lint_adapter = lambda *_, **__: 1 / 0\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, "lint", str(plain().save(tmp_path))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "ZeroDivisionError" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("please report it")


def test_a_command_that_is_stopped_is_no_rejection(tmp_path: Path) -> None:
    program = (
        "from phi3_lora_qa import cli\n"
        "import phi3_lora_qa.cli.lint as lint\n"
        "def stop(*_, **__): raise KeyboardInterrupt\n"
        "lint.lint_adapter = stop\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, "lint", str(plain().save(tmp_path))]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 130


def on_a_terminal(folder: Path, **environment: str) -> str:
    """Return what lint writes to a terminal of its own."""
    pty = pytest.importorskip("pty")
    control, terminal = pty.openpty()
    plain_environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    command = [sys.executable, "-m", "phi3_lora_qa", "lint", str(folder)]
    with subprocess.Popen(
        command, stdout=terminal, env=plain_environment | {"TERM": "xterm"} | environment
    ):
        os.close(terminal)
        written = b""
        with suppress(OSError):  # how a terminal says that nobody is left to write
            while part := os.read(control, 1 << 16):
                written += part
    os.close(control)
    return written.decode()


def test_a_terminal_gets_colours_and_nothing_else_does(tmp_path: Path) -> None:
    folder = spoil(plain(), "nan", 0.5).save(tmp_path)
    shown = on_a_terminal(folder)
    assert "\x1b[31m\x1b[1mrejected\x1b[0m" in shown
    assert "\x1b[31merror   \x1b[0m\x1b[1mvalues-nan\x1b[0m" in shown
    piped = lint(spoil(plain(), "nan", 0.5), tmp_path)
    assert "\x1b" not in piped
    assert click.unstyle(shown).splitlines() == piped.splitlines()


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_takes_no_colours_gets_none(
    setting: dict[str, str], tmp_path: Path
) -> None:
    shown = on_a_terminal(plain().save(tmp_path), **setting)
    assert shown.startswith("accepted")
    assert "\x1b" not in shown


def test_lint_in_text_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
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
