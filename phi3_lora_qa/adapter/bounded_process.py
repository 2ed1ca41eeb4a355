"""A program that works on a stranger's data, run as a child process that can be ended.

The child gives up time, memory, files and processes before its program starts
(`bounded_process_start`); this side has the clock, counts what the child writes, and ends it with
all that it may have started.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from phi3_lora_qa.adapter import bounded_process_start
from phi3_lora_qa.errors import MissingDependencyError

if TYPE_CHECKING:
    import subprocess

# Without these, where they are set, an interpreter may not start at all. Nothing else is passed on.
_KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a child may use.

    Attributes:
        wall_seconds: After which it is ended whatever it does.
        cpu_seconds: Of computing time, the interpreter's start included.
        memory_mib: Of address space, the interpreter's own 30 or so included.
        answer_bytes: Of what it writes to its standard output.
        open_files: At once.
    """

    wall_seconds: float
    cpu_seconds: int
    memory_mib: int
    answer_bytes: int
    open_files: int = 16


def run_child(
    program: Path, arguments: Sequence[str], job: bytes, limits: Limits
) -> tuple[bytes, str]:
    """Run a program that reads a job from its standard input and writes an answer.

    Args:
        program: Python's source. It is run by its path, isolated and without site-packages, so it
            imports nothing but the standard library until it has put folders on `sys.path`.
        arguments: What it finds in ``sys.argv[1:]``.
        job: What it reads.
        limits: What it may use.

    Returns:
        What it wrote, and how it was ended if it did not end well: "took longer than …". Empty
        where it did.
    """
    import subprocess

    deadline = time.monotonic() + limits.wall_seconds
    with subprocess.Popen(
        _command(program, arguments, limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
        start_new_session=True,  # a group of its own, which can be ended as a whole
    ) as child:
        output = bytearray()
        # Threads, as the system may know no other way to wait for a pipe and a clock at once.
        threads = [
            threading.Thread(target=_feed, args=(child.stdin, job), daemon=True),
            threading.Thread(
                target=_collect, args=(child.stdout, output, limits.answer_bytes), daemon=True
            ),
        ]
        try:
            for thread in threads:
                thread.start()
            threads[1].join(limits.wall_seconds)
            if threads[1].is_alive():
                return bytes(output), f"took longer than {limits.wall_seconds:g} s"
            if len(output) > limits.answer_bytes:
                return bytes(output), f"wrote more than {limits.answer_bytes} bytes"
            status = child.wait(max(deadline - time.monotonic(), 1.0))
            return bytes(output), _ending(status, limits)
        except subprocess.TimeoutExpired:
            return bytes(output), f"took longer than {limits.wall_seconds:g} s"
        finally:
            # Not poll(): until its end is collected, its number is no other process's, and what it
            # may have left behind can be ended with it.
            if child.returncode is None:
                _kill(child)
            for thread in threads:
                thread.join(1.0)


def folders_of(*packages: str) -> list[str]:
    """Return the folders from which packages are imported here, for a child's `sys.path`.

    Args:
        *packages: Names of packages, first the one that pip installs with the others.

    Raises:
        MissingDependencyError: One of them is not installed.
    """
    folders = []
    for name in packages:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise MissingDependencyError(f"{name} is missing; pip install {packages[0]}")
        folders.append(str(Path(spec.origin).resolve().parents[1]))
    return list(dict.fromkeys(folders))


def _command(program: Path, arguments: Sequence[str], limits: Limits) -> list[str]:
    start = str(Path(bounded_process_start.__file__).resolve())
    numbers = map(str, (limits.cpu_seconds, limits.memory_mib, limits.open_files))
    # Isolated, without site and without writing bytecode: no startup files, no .pth files.
    return [sys.executable, "-I", "-S", "-B", start, *numbers, str(program), *arguments]


def _feed(pipe: IO[bytes], job: bytes) -> None:
    with suppress(OSError), pipe:  # a child that has ended reads no more
        pipe.write(job)


def _collect(pipe: IO[bytes], output: bytearray, most: int) -> None:
    """Take what comes as it comes, so that what a child wrote before its end is not lost."""
    with suppress(OSError):
        while len(output) <= most and (chunk := os.read(pipe.fileno(), 1 << 16)):
            output += chunk


def _ending(status: int, limits: Limits) -> str:
    if status == 0:
        return ""
    if status == -getattr(signal, "SIGXCPU", 0):
        return f"took longer than {limits.cpu_seconds} s of computing time"
    return f"ended its process with {'signal' if status < 0 else 'status'} {abs(status)}"


def _kill(child: "subprocess.Popen[bytes]") -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
