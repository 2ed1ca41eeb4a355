"""The one shape of a progress callback, which light and heavy modules share."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total): what is being done, and how many of its steps are finished.

``total`` is 0 if the number of steps is unknown.
"""


def silent(phase: str, done: int, total: int) -> None:
    """Ignore the progress: the default for callers that show nothing."""
