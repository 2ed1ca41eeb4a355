"""What linting does beside its work, written down.

Python calls an audit hook at each of these deeds; a hook cannot be removed, so it looks for a
watch.
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
"""The only program that linting may start: it sets limits to itself, then runs another."""

_DEEDS = (
    "socket.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.startfile", "os.remove",
    "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "os.chown", "os.utime", "os.setxattr", "os.removexattr", "shutil.", "tempfile.",
    "pickle.", "pty.", "ftplib.", "urllib.", "http.", "smtplib.", "webbrowser.", "subprocess.",
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class _Watch:
    folder: str
    thread: int
    deeds: list[tuple[str, str]]


_watch: _Watch | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    watch = _watch
    if watch is None or threading.get_ident() != watch.thread:
        return
    if event == "open":
        bad = _is_bad_open(watch.folder, *arguments)
    else:
        allowed = _is_child(event, arguments) or _is_private(event, arguments)
        bad = event.startswith(_DEEDS) and not allowed
    if bad:
        watch.deeds.append((event, repr(arguments)[:500]))


def _is_bad_open(folder: str, path: Any, mode: str | None, flags: int) -> bool:
    """Whether a file is opened for writing, or one of the adapter's that must be left alone."""
    if isinstance(path, int):  # a pipe to the child
        return False
    text = os.fsdecode(path)
    if flags & _WRITES or set(mode or "") & set("wax+"):
        return text != os.devnull and not text.startswith(_private_place())
    inside = text.startswith(folder)
    inner = text.removeprefix(folder)
    read = inner in (*EXPECTED_FILES, TRAINING_LOG, TEMPLATE_FOLDER) or is_loaded(inner)
    return inside and not (read and flags & os.O_NOFOLLOW)


def _private_place() -> str:
    """Where a tokenizer's files are copied to, for the child that tries them."""
    return os.path.join(tempfile.gettempdir(), "phi3-lora-qa-")  # noqa: PTH118


def _is_private(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a deed is one of making that place, or of clearing it by its open folder."""
    if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
        return True  # a name in an open folder: the adapter's is held to be as it was
    return bool(arguments) and str(arguments[0]).startswith(_private_place())


def _is_child(event: str, arguments: tuple[Any, ...]) -> bool:
    if event not in ("subprocess.Popen", "os.posix_spawn"):
        return False
    words = [os.fsdecode(word) for word in arguments[1]]
    return CHILD in words or any(word.endswith(CHILD.replace(".", "/") + ".py") for word in words)


@functools.cache
def _install() -> None:
    sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(folder: Path, deeds: list[tuple[str, str]]) -> Iterator[None]:
    """Write down every deed that no linting may do."""
    global _watch  # noqa: PLW0603 - a hook has no other place to look
    _install()
    _watch = _Watch(f"{folder}{os.sep}", threading.get_ident(), deeds)
    try:
        yield
    finally:
        _watch = None
