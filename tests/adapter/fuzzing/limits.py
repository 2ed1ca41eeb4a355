"""Limits of time and memory on a piece of work, and what it has taken of both."""

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
    """Raised out of the linter by the alarm clock; no ``except Exception`` may catch it."""


@contextlib.contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Let the process map no more than so many bytes beyond what it has mapped already."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        yield
        return
    mapped = int(status.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = min([mapped + size, *(n for n in (soft, hard) if n != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """End the work by `Overtime` after so many seconds, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overtime

    previous = signal.signal(signal.SIGALRM, ring)
    # Again each second: what rings during a callback of the garbage collector is thrown away.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def computed() -> float:
    """Seconds of computing so far, those of children that have ended included."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak() -> int:
    """Bytes of memory that the process has had at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
