"""Output that cannot be written is one line and exit status 2; signals end a command cleanly."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "phi3_lora_qa"]
COMMANDS = (["--help"], ["--version"], ["lint", "--help"], ["explain", "values"])


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("where", "words"),
    [(">&-", "closed"), (">/dev/full", "No space left"), ("| true", "Broken pipe")],
)
def test_output_that_cannot_be_written_is_one_line_and_status_2(
    arguments: list[str], where: str, words: str
) -> None:
    script = f'set -o pipefail; "$@" {where}'
    if "true" in where:  # the reader has ended before anything is written
        script = 'set -o pipefail; { sleep 0.3; "$@"; } | true'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *COMMAND, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("phi3-lora-qa: error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_errors_that_cannot_be_written_do_not_go_to_stdout() -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" 2>&-', "bash", *COMMAND, "lint", "nowhere", "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""


@pytest.mark.slow
def test_sigterm_ends_a_training_without_a_partial_adapter(tmp_path: Path) -> None:
    output = tmp_path / "adapter"
    root = Path(__file__).parents[3]
    command = [*COMMAND, "train", str(root / "fixtures" / "tiny" / "train.toml")]
    with subprocess.Popen(
        [*command, "--set", f"output.dir={str(output)!r}"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".*.part")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGTERM)
        stderr = child.communicate()[1]
    assert child.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not output.exists()
