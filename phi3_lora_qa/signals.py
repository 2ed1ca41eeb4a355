"""SIGTERM and SIGHUP end a run as Ctrl-C does, so that what must be removed is removed.

A CI server that cancels a job sends one of them. By default a process is then gone at once, and
leaves its private copies and half a report behind.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CAUGHT = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class EndedError(KeyboardInterrupt):
    """A signal asked the process to end; whoever handles Ctrl-C handles it."""


class EndSignals:
    """Catches the signals where nobody else does: a handler of the user's own stays.

    Attributes:
        received: The number of the signal that came; 0 as long as none did.
    """

    def __init__(self) -> None:
        self.received = 0
        self._caught: list[int] = []
        self._raised = self._held = False

    @property
    def status(self) -> int:
        """The exit status of a process that the signal ended."""
        return 128 + self.received

    def catch(self) -> None:
        """Begin to catch; in another thread than the main one nothing can be caught."""
        if threading.current_thread() is threading.main_thread():
            for number in CAUGHT:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._end)
                    self._caught.append(number)

    def release(self) -> None:
        """Put back what was there before."""
        for number in self._caught:
            if signal.getsignal(number) == self._end:
                signal.signal(number, signal.SIG_DFL)
        self._caught.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let what is done within be finished first."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._raise()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        self._raise()

    def _raise(self) -> None:
        # Once: what is removed then must not be broken off by a second signal.
        if self.received and not self._held and not self._raised:
            self._raised = True
            raise EndedError(f"ended by {signal.Signals(self.received).name}")
