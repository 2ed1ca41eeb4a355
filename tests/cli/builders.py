"""Shared builders of the tests of the commands."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from phi3_lora_qa.cli import app
from tests.adapter.adapters import Adapter, plain

HOSTILE = "x\n::error::pwned\x1b[31m\u202e%,:"


def run(*arguments: str | Path) -> Result:
    """Run the console script's application with these arguments."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def lint(adapter: Adapter, folder: Path, *arguments: str) -> str:
    """Save an adapter, lint it and return the output."""
    return run("lint", adapter.save(folder), *arguments).stdout


def with_programs(count: int) -> Adapter:
    """Return an adapter with this many programs in its folder."""
    adapter = plain()
    adapter.files = {f"{number}.sh": b"" for number in range(count)}
    return adapter


def hostile_adapter() -> Adapter:
    """Return an adapter whose names contain line breaks, commands and control characters."""
    adapter = plain()
    adapter.config[HOSTILE] = HOSTILE
    adapter.tensors[HOSTILE] = adapter.array(adapter.names("lora_B.weight")[0])
    return adapter


def sarif_run(adapter: Adapter, folder: Path, *arguments: str) -> dict[str, Any]:
    """Lint an adapter and return the only run of the SARIF log."""
    (one,) = json.loads(lint(adapter, folder, "--format", "sarif", *arguments))["runs"]
    assert isinstance(one, dict)
    return one
