"""One progress line of our own while the gate works, where the terminal can rewrite a line."""

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

PAUSE = 0.2
"""Seconds between two updates of the line."""


class ProgressLine:
    """Writes past pytest's capture: a line that is rewritten on a terminal, silence elsewhere."""

    def __init__(self, config: "pytest.Config") -> None:
        self._reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        self._capture: Any = config.pluginmanager.getplugin("capturemanager")
        self._shows = bool(self._reporter and self._reporter.isatty and config.option.verbose >= 0)
        self._next = 0.0
        self._started: dict[str, float] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show the phase with what is done and the time that is left."""
        now = time.monotonic()
        first = self._started.setdefault(phase, now)
        if not self._shows or (now < self._next and done < total):
            return
        self._next = now + PAUSE
        words = f"phi3: {phase}"
        if total:
            left = (now - first) / done * (total - done) if done else 0.0
            words += f" {done}/{total}" + (f", {left:.0f} s left" if left >= 1 else "")
        past_capture = self._capture.global_and_fixture_disabled if self._capture else nullcontext
        with past_capture():
            writer = self._reporter._tw
            writer.write(f"\r\x1b[2K{words[: writer.fullwidth - 1]}", flush=True)
            if total and done >= total:
                writer.write("\r\x1b[2K", flush=True)
