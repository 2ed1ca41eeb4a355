"""Progress of training: the callbacks, and a progress bar with a line for each logged loss."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from phi3_lora_qa.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One line of the training log.

    Attributes:
        step: Optimizer steps so far.
        steps: Optimizer steps of the whole run; 0 if unknown.
        kind: "train" or "eval".
        loss: Nats per learned token. "train": the mean since the previous entry. "eval": as
            transformers' Trainer computes it, the mean over the tokens of each batch, averaged
            over the validation rows.
        learning_rate: 0 if unknown.
    """

    step: int
    steps: int
    kind: str
    loss: float
    learning_rate: float = 0.0


def _ignore(entry: LogEntry) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainingCallbacks:
    """Functions that training calls.

    Attributes:
        on_progress: Called with the phase, and the optimizer steps done and in total.
        on_log: Called with each logged loss.
    """

    on_progress: Progress = silent
    on_log: Callable[[LogEntry], None] = _ignore


@contextmanager
def progress_bar() -> Iterator[TrainingCallbacks]:
    """Show a progress bar on stderr and the logged losses above it; only the losses off a TTY."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    console = Console(stderr=True, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with ProgressBar(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("starting", total=None)

        def on_progress(phase: str, done: int, total: int) -> None:
            if total:
                bar.update(task, description=phase, completed=done, total=total)
            else:
                bar.update(task, description=phase)

        def on_log(entry: LogEntry) -> None:
            console.print(log_line(entry), markup=False, soft_wrap=True)

        yield TrainingCallbacks(on_progress=on_progress, on_log=on_log)


def log_line(entry: LogEntry) -> str:
    """Return a log entry as text, such as ``step 2/6  train loss 1.2345``."""
    of = f"/{entry.steps}" if entry.steps else ""
    rate = f"  learning rate {entry.learning_rate:.2e}" if entry.learning_rate else ""
    kind = "train" if entry.kind == "train" else "validation"
    return f"step {entry.step}{of}  {kind} loss {entry.loss:.4f}{rate}"
