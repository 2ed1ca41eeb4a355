"""A progress line while the gate works, on terminals that can rewrite a line."""

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

SECONDS_BETWEEN_UPDATES = 0.2


class ProgressLine:
    """Writes past pytest's output capture; silent if standard output is not a terminal."""

    def __init__(self, config: "pytest.Config") -> None:
        reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        self._capture: Any = config.pluginmanager.getplugin("capturemanager")
        # Not public: without it there is no progress line.
        self._writer: Any = getattr(reporter, "_tw", None)
        self._shows = bool(
            self._writer and getattr(reporter, "isatty", False) and config.option.verbose >= 0
        )
        self._next_update = 0.0
        self._started: dict[str, float] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show the phase, its progress and the estimated time left."""
        now = time.monotonic()
        first = self._started.setdefault(phase, now)
        if not self._shows or (now < self._next_update and done < total):
            return
        self._next_update = now + SECONDS_BETWEEN_UPDATES
        line = f"phi3: {phase}"
        if total:
            left = (now - first) / done * (total - done) if done else 0.0
            line += f" {done}/{total}" + (f", {left:.0f} s left" if left >= 1 else "")
        past_capture = self._capture.global_and_fixture_disabled if self._capture else nullcontext
        with past_capture():
            self._writer.write(f"\r\x1b[2K{line[: self._writer.fullwidth - 1]}", flush=True)
            if total and done >= total:
                self._writer.write("\r\x1b[2K", flush=True)
