"""End a run on SIGTERM and SIGHUP as on Ctrl-C, so that its temporary files are removed.

A CI server sends one of these signals to cancel a job. By default they end the process immediately,
which leaves private copies and partial reports.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CAUGHT = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class EndedError(KeyboardInterrupt):
    """A signal ended the run; code that handles Ctrl-C also handles this."""


class EndSignals:
    """Handles the signals that have no other handler; a user's own handlers are kept.

    Attributes:
        received: The number of the first signal that arrived; 0 before that.
    """

    def __init__(self) -> None:
        self.received = 0
        self._caught: list[int] = []
        self._raised = self._deferred = False

    @property
    def status(self) -> int:
        """The exit status of a process that the signal ends."""
        return 128 + self.received

    def catch(self) -> None:
        """Install the handlers; only the main thread can, and others do nothing."""
        if threading.current_thread() is threading.main_thread():
            for number in CAUGHT:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._end)
                    self._caught.append(number)

    def release(self) -> None:
        """Restore the previous handlers."""
        for number in self._caught:
            if signal.getsignal(number) == self._end:
                signal.signal(number, signal.SIG_DFL)
        self._caught.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise only after the block has finished."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
            self._raise()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        self._raise()

    def _raise(self) -> None:
        # Only once: a second signal must not interrupt the cleanup.
        if self.received and not self._deferred and not self._raised:
            self._raised = True
            raise EndedError(f"ended by {signal.Signals(self.received).name}")
