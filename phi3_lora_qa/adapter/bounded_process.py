"""Runs a program that processes untrusted data in a child process with resource limits.

The child limits its own time, memory, files and processes before its program starts (see
`bounded_process_start`). The parent enforces the wall-clock limit and the output limit, and kills
the child with all processes that it may have started.
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
from phi3_lora_qa.extras import extra_of, is_installed, pip_command

if TYPE_CHECKING:
    import subprocess

# If these are set, an interpreter may not start without them. Nothing else is passed on.
_PASSED_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resource limits of a child process.

    Attributes:
        wall_seconds: Wall-clock time in seconds.
        cpu_seconds: CPU time in seconds, including the start of the interpreter.
        memory_mib: Address space in MiB, including about 30 for the interpreter.
        output_bytes: Bytes on standard output.
        open_files: Open files at the same time.
    """

    wall_seconds: float
    cpu_seconds: int
    memory_mib: int
    output_bytes: int
    open_files: int = 16


def run_child(
    program: Path, arguments: Sequence[str], job: bytes, limits: Limits
) -> tuple[bytes, str]:
    """Run a program that reads a job from standard input and writes a result to standard output.

    Args:
        program: The path of the Python source. It runs isolated and without site-packages, so it
            can import only the standard library until it adds folders to `sys.path`.
        arguments: The program's ``sys.argv[1:]``.
        job: The program's standard input.
        limits: The resource limits.

    Returns:
        The output, and why the program failed, as "took longer than …"; empty if it succeeded.
    """
    import subprocess

    deadline = time.monotonic() + limits.wall_seconds
    with subprocess.Popen(
        _command(program, arguments, limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ},
        start_new_session=True,  # its own process group, which can be killed as a whole
    ) as child:
        output = bytearray()
        # Threads: not every system can wait for a pipe with a timeout.
        threads = [
            threading.Thread(target=_feed, args=(child.stdin, job), daemon=True),
            threading.Thread(
                target=_collect, args=(child.stdout, output, limits.output_bytes), daemon=True
            ),
        ]
        try:
            for thread in threads:
                thread.start()
            threads[1].join(limits.wall_seconds)
            if threads[1].is_alive():
                return bytes(output), f"took longer than {limits.wall_seconds:g} s"
            if len(output) > limits.output_bytes:
                return bytes(output), f"wrote more than {limits.output_bytes} bytes"
            status = child.wait(max(deadline - time.monotonic(), 1.0))
            return bytes(output), _failure(status, limits)
        except subprocess.TimeoutExpired:
            return bytes(output), f"took longer than {limits.wall_seconds:g} s"
        finally:
            # Not poll(): until the child is reaped its process id is not reused, so that the
            # processes that it left behind can be killed with it.
            if child.returncode is None:
                _kill(child)
            for thread in threads:
                thread.join(1.0)


def folders_of(*packages: str) -> list[str]:
    """Return the folders that these packages are imported from, for a child's `sys.path`.

    Args:
        *packages: Names of packages; installing the first one also installs the others, unless an
            extra of this package brings them.

    Raises:
        MissingDependencyError: One of them is not installed.
    """
    folders = []
    for name in packages:
        spec = find_spec(name) if is_installed(name) else None
        if spec is None or spec.origin is None:
            extra = extra_of(name)
            how = pip_command(extra) if extra else f"pip install {packages[0]}"
            raise MissingDependencyError(f"{name} is not installed; run: {how}")
        folders.append(str(Path(spec.origin).resolve().parents[1]))
    return list(dict.fromkeys(folders))


def _command(program: Path, arguments: Sequence[str], limits: Limits) -> list[str]:
    start = str(Path(bounded_process_start.__file__).resolve())
    numbers = map(str, (limits.cpu_seconds, limits.memory_mib, limits.open_files))
    # Isolated, without site and without writing bytecode: no startup files and no .pth files run.
    return [sys.executable, "-I", "-S", "-B", start, *numbers, str(program), *arguments]


def _feed(pipe: IO[bytes], job: bytes) -> None:
    with suppress(OSError), pipe:  # a child that has exited closes the pipe
        pipe.write(job)


def _collect(pipe: IO[bytes], output: bytearray, max_bytes: int) -> None:
    """Read output as it arrives, so that what a child wrote before it was killed is not lost."""
    with suppress(OSError):
        while len(output) <= max_bytes and (chunk := os.read(pipe.fileno(), 1 << 16)):
            output += chunk


def _failure(status: int, limits: Limits) -> str:
    if status == 0:
        return ""
    if status == -getattr(signal, "SIGXCPU", 0):
        return f"took longer than {limits.cpu_seconds} s of CPU time"
    return f"exited with {'signal' if status < 0 else 'status'} {abs(status)}"


def _kill(child: "subprocess.Popen[bytes]") -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
