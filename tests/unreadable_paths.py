"""Builders of paths that are not readable regular files."""

import os
import socket
from collections.abc import Callable
from pathlib import Path


def make_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def make_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return path


def make_loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


def make_link_to_pipe(path: Path) -> Path:
    path.symlink_to(make_pipe(path.with_name("pipe")))
    return path


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def make_huge(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(1 << 40)
    return path


UNREADABLE: dict[str, Callable[[Path], Path | str]] = {
    "missing": lambda path: path,
    "folder": make_folder,
    "pipe": make_pipe,
    "socket": make_socket,
    "loop": make_loop,
    "link to a pipe": make_link_to_pipe,
    "zero": lambda _: Path("/dev/zero"),
    "full": lambda _: Path("/dev/full"),
    "null": lambda _: Path("/dev/null"),
    "terminal": lambda _: Path("/dev/tty"),
    "long name": lambda path: path.with_name("a" * 300),
    "long path": lambda path: path / "/".join(["a" * 200] * 30),
    "NUL": lambda path: f"{path}\0",
    "surrogate": lambda path: f"{path}\ud800",
    "not text": lambda path: f"{path}\udcff",
    "line break": lambda path: f"{path}\n::error::x",
    "empty": lambda _: "",
    "huge": make_huge,
}
"""Functions that make such a path, given a free path."""
