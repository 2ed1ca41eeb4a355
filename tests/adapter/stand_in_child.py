"""Replaces the child that renders templates by a program of the test."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from phi3_lora_qa.adapter.chat_template import template_rendering

SAY_READY = "sys.stdout.buffer.write(b'ready\\n'); sys.stdout.flush()\n"
"""What the child writes before it reads the templates."""


def child_of(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the child by a program with this code."""
    program = folder / "child.py"
    program.write_text(f"import json, os, sys, time\n{code}\n")
    monkeypatch.setattr(
        template_rendering, "template_rendering_child", SimpleNamespace(__file__=str(program))
    )
