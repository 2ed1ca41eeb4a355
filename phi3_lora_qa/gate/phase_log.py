"""The log of the work on one adapter: timings and notes for the record, and progress."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.gate.journal import Evidence, Journal
from phi3_lora_qa.progress import Progress, silent
from phi3_lora_qa.record import Timing


@dataclass(frozen=True, kw_only=True)
class PhaseLog:
    """The journal of a run, bound to one adapter.

    Attributes:
        journal: The journal of the run.
        adapter: The adapter's index in the run.
        name: The adapter's name.
        on_progress: Shows the progress of long phases.
    """

    journal: Journal
    adapter: int
    name: str
    on_progress: Progress = silent

    def add_environment(self, notes: Mapping[str, Json]) -> None:
        """Add notes about versions, hardware and settings to the record."""
        self.journal.add_evidence(Evidence(adapter=self.adapter, environment=notes))

    @contextmanager
    def timed(self, phase: str, count_tokens: Callable[[], int] | None = None) -> Iterator[None]:
        """Measure a phase and, with ``count_tokens``, the tokens that it processed."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        tokens = count_tokens() if count_tokens else 0
        timing = Timing(
            phase=phase,
            seconds=seconds,
            tokens=tokens,
            tokens_per_second=tokens / seconds if tokens else 0.0,
        )
        self.journal.add_evidence(Evidence(adapter=self.adapter, timings=[timing]))
