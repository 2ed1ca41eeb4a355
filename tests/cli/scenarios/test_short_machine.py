"""A machine that runs out of memory or file handles gives one line, no verdict, no rejection."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adapter.adapters import Adapter, plain
from tests.adapter.chat_templates import BRACKETS
from tests.adapter.faults import spoil
from tests.adapter.tiny_base import tokenizer_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux-specific")

# The memory limit applies to what is mapped in addition to a started interpreter.
_LIMITED = """
import resource, sys
from pathlib import Path
from phi3_lora_qa.__main__ import main
from phi3_lora_qa.cli import main as _loaded
kind, value = getattr(resource, sys.argv[1]), int(sys.argv[2])
if kind == resource.RLIMIT_AS:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    value = mapped + (value << 20)
resource.setrlimit(kind, (value, value))
sys.argv[1:] = sys.argv[3:]
main()
"""
UNLIMITED = "RLIMIT_CORE", 0
FEW_HANDLES = [("RLIMIT_NOFILE", count) for count in range(1, 14)]
LITTLE_MEMORY = [
    ("RLIMIT_AS", mib)
    for mib in (*range(12), 14, 17, 21, 27, 35, 45, 60, 80, 100, 115, 130, 150, 180, 220, 300, 500)
]


def with_template() -> Adapter:
    """Return an adapter whose template must be rendered, in a child process."""
    adapter = plain()
    adapter.files = tokenizer_files(template=BRACKETS)
    return adapter


ADAPTERS = {"good": plain, "bad": lambda: spoil(plain(), "nan", 0.5), "template": with_template}


def lint(limit: tuple[str, int], folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", _LIMITED, limit[0], str(limit[1])]
    return subprocess.run(
        [*command, "lint", str(folder), "--format", "json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("limits", [FEW_HANDLES, LITTLE_MEMORY], ids=["handles", "memory"])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_outcome_is_the_usual_verdict_or_one_line_and_status_2(
    kind: str, limits: list[tuple[str, int]], tmp_path: Path
) -> None:
    folder = ADAPTERS[kind]().save(tmp_path)
    usual = lint(UNLIMITED, folder)
    assert usual.returncode == (1 if kind == "bad" else 0)
    outcomes = set()
    for limit in limits:
        done = lint(limit, folder)
        outcomes.add(done.returncode)
        if done.returncode == 2:
            assert done.stdout == "", limit
            (line,) = done.stderr.splitlines()
            assert line.startswith("phi3-lora-qa: error: "), limit
            assert ";" in line, limit
        else:
            assert done.returncode == usual.returncode, (limit, done.stdout, done.stderr)
            assert json.loads(done.stdout) == json.loads(usual.stdout), limit
    assert outcomes == {2, usual.returncode}


def test_the_missing_resource_is_named_with_its_fix(tmp_path: Path) -> None:
    folder = plain().save(tmp_path)
    assert "ran out of file handles; close files" in lint(("RLIMIT_NOFILE", 3), folder).stderr
    assert "ran out of memory; free some" in lint(("RLIMIT_AS", 4), folder).stderr
