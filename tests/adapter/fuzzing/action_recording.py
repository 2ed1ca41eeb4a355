"""Records forbidden actions of the linter by an audit hook of Python.

A hook cannot be removed, so it checks whether a recording is in progress.
"""

import contextlib
import functools
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.folder import EXPECTED_FILES, TEMPLATE_FOLDER, TRAINING_LOG, is_loaded

CHILD = "phi3_lora_qa.adapter.bounded_process_start"
"""The only program that the linter may start: it limits itself, then runs another program."""

_FORBIDDEN = (
    "socket.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.startfile", "os.remove",
    "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "os.chown", "os.utime", "os.setxattr", "os.removexattr", "shutil.", "tempfile.",
    "pickle.", "pty.", "ftplib.", "urllib.", "http.", "smtplib.", "webbrowser.", "subprocess.",
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class _Recording:
    folder: str
    thread: int
    actions: list[tuple[str, str]]


_recording: _Recording | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    recording = _recording
    if recording is None or threading.get_ident() != recording.thread:
        return
    if event == "open":
        bad = _is_bad_open(recording.folder, *arguments)
    else:
        allowed = _is_child(event, arguments) or _is_private(event, arguments)
        bad = event.startswith(_FORBIDDEN) and not allowed
    if bad:
        recording.actions.append((event, repr(arguments)[:500]))


def _is_bad_open(folder: str, path: Any, mode: str | None, flags: int) -> bool:
    """Whether a file is opened for writing, or is a file of the adapter that must not be read."""
    if isinstance(path, int):  # a pipe to the child
        return False
    text = os.fsdecode(path)
    if flags & _WRITES or set(mode or "") & set("wax+"):
        return text != os.devnull and not text.startswith(_private_prefix())
    inside = text.startswith(folder)
    inner = text.removeprefix(folder)
    read = inner in (*EXPECTED_FILES, TRAINING_LOG, TEMPLATE_FOLDER) or is_loaded(inner)
    return inside and not (read and flags & os.O_NOFOLLOW)


def _private_prefix() -> str:
    """Return the path prefix of the private copies of tokenizer files."""
    return os.path.join(tempfile.gettempdir(), "phi3-lora-qa-")  # noqa: PTH118


def _is_private(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an action creates a private copy, or removes one through its open folder."""
    if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
        return True  # relative to an open folder; the oracle checks that the adapter's is unchanged
    return bool(arguments) and str(arguments[0]).startswith(_private_prefix())


def _is_child(event: str, arguments: tuple[Any, ...]) -> bool:
    if event not in ("subprocess.Popen", "os.posix_spawn"):
        return False
    words = [os.fsdecode(word) for word in arguments[1]]
    return CHILD in words or any(word.endswith(CHILD.replace(".", "/") + ".py") for word in words)


@functools.cache
def _install() -> None:
    sys.addaudithook(_hook)


@contextlib.contextmanager
def recorded_actions(folder: Path, actions: list[tuple[str, str]]) -> Iterator[None]:
    """Record every action that the linter must not do."""
    global _recording  # noqa: PLW0603 - the hook has no other way to find it
    _install()
    _recording = _Recording(f"{folder}{os.sep}", threading.get_ident(), actions)
    try:
        yield
    finally:
        _recording = None
