"""What is seen while training: one bar of our own, and a line for every logged loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One line of the training log.

    ``loss`` is in nats per learned token: for ``kind`` "train" the mean since the line before; for
    "eval" over the validation rows, as transformers' Trainer has it, which is the mean over the
    tokens of each batch, averaged over the rows. ``learning_rate`` is 0 where it is not known.
    """

    step: int
    steps: int
    kind: str
    loss: float
    learning_rate: float = 0.0


class Progress(Protocol):
    """Who is told how training goes."""

    def phase(self, text: str) -> None:
        """Something that takes a while begins."""

    def step(self, done: int, total: int) -> None:
        """So many optimizer steps are done."""

    def entry(self, entry: LogEntry) -> None:
        """A loss was logged."""


class Silent:
    """Tells nobody."""

    def phase(self, text: str) -> None:
        """Say nothing."""

    def step(self, done: int, total: int) -> None:
        """Say nothing."""

    def entry(self, entry: LogEntry) -> None:
        """Say nothing."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar on stderr, with the logged losses above it; without a terminal the losses only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with RichProgress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task("starting", total=None)

        class CompactRepr:
            def phase(self, text: str) -> None:
                bars.update(task, description=text)

            def step(self, done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            def entry(self, entry: LogEntry) -> None:
                console.print(log_line(entry), markup=False, soft_wrap=True)

        yield CompactRepr()


def log_line(entry: LogEntry) -> str:
    """Write one log entry for a reader."""
    of = f"/{entry.steps}" if entry.steps else ""
    rate = f"  learning rate {entry.learning_rate:.2e}" if entry.learning_rate else ""
    kind = "train" if entry.kind == "train" else "validation"
    return f"step {entry.step}{of}  {kind} loss {entry.loss:.4f}{rate}"
