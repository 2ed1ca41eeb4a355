"""How a command ends without a verdict: exit status 2 or 130, and never 1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adapter.adapters import plain


@pytest.mark.parametrize("form", ["text", "json", "github", "sarif"])
@pytest.mark.parametrize("sink", ["a closed pipe", "a full disk"])
def test_output_that_cannot_be_written_is_not_a_rejection(
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
        pytest.skip("this system has no /dev/full")
    result = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    os.close(output)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("phi3-lora-qa: error: cannot write the output")


def test_an_internal_error_is_not_a_rejection(tmp_path: Path) -> None:
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


def test_a_command_that_is_stopped_is_not_a_rejection(tmp_path: Path) -> None:
    program = (
        "from phi3_lora_qa import cli\n"
        "import phi3_lora_qa.cli.lint as lint\n"
        "def stop(*_, **__): raise KeyboardInterrupt\n"
        "lint.lint_adapter = stop\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, "lint", str(plain().save(tmp_path))]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 130
