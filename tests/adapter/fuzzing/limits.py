"""Limits on time and memory, and measurements of both."""

import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


class Overtime(BaseException):
    """Raised in the linter by the alarm; no ``except Exception`` catches it."""


@contextlib.contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Limit the memory that the process may map in addition to what is mapped now, in bytes."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        yield
        return
    mapped = int(status.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = min([mapped + size, *(n for n in (soft, hard) if n != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `Overtime` in the main thread after this number of seconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overtime

    previous = signal.signal(signal.SIGALRM, ring)
    # Repeated each second: an exception in a callback of the garbage collector is discarded.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def cpu_seconds() -> float:
    """Return the CPU time so far in seconds, including children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_memory() -> int:
    """Return the peak memory of the process in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
