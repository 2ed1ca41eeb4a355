"""What a process holds while it gates: one base, one attached adapter, the scores.

Everything is made when a check first asks for it, and in the one order that can be trusted: the
base is hashed and scored before any adapter is attached to it.
"""

import gc
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.base import BaseFiles
from phi3_lora_qa.adapter.config import LoraAdapterConfig, read_config
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, Severity, lint
from phi3_lora_qa.adapter.selection import read_selection
from phi3_lora_qa.data.chat import Item
from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.factors import read_factors
from phi3_lora_qa.gate.journal import Evidence, Journal
from phi3_lora_qa.gate.prepare import Target, snapshot_of
from phi3_lora_qa.gate.table import join_scores, measure, needed
from phi3_lora_qa.lora.reference import Array, Factors
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef, resolve_base
from phi3_lora_qa.record import ItemRow, Metric, Spectrum, Timing
from phi3_lora_qa.settings import STAGES, GateSettings

if TYPE_CHECKING:
    from phi3_lora_qa.models.loading import LoadedBase
    from phi3_lora_qa.scoring.score import ItemScore

Progress = Callable[[str, int, int], None]
"""Called with the phase's name, the items done and all items."""

PROBE = "The probe: 1 + 2 = 3, and so on."


@dataclass
class Run:
    """One process's share of a gate run."""

    settings: GateSettings
    targets: Sequence[Target]
    folder: Path
    journal: Journal
    stages: frozenset[str] = frozenset(STAGES)
    """The stages that will run a check: what no check asks for is not computed beforehand."""
    progress: Progress = lambda phase, done, total: None
    _benches: dict[int, "Bench"] = field(default_factory=dict)
    _loaded: "LoadedBase | None" = None
    _unloadable: dict[str, str] = field(default_factory=dict)
    _checksums: dict[str, str] = field(default_factory=dict)
    _probes: dict[str, Array] = field(default_factory=dict)
    _scores: dict[tuple[str, tuple[Item, ...]], tuple["ItemScore", ...]] = field(
        default_factory=dict
    )

    def bench(self, index: int) -> "Bench":
        """The workbench of one adapter."""
        if index not in self._benches:
            self._benches[index] = Bench(self, index, self.targets[index])
        return self._benches[index]

    def quietly(self, stage: str) -> AbstractContextManager[object]:
        """Silence other libraries' bars, logs and warnings, whatever the user's filters say.

        The static stage uses no such library, and must not import one to silence it.
        """
        return warnings.catch_warnings(action="ignore") if stage == "static" else quiet()

    @contextmanager
    def timed(
        self, phase: str, adapter: int, count: Callable[[], int] | None = None
    ) -> Iterator[None]:
        """Measure a phase, and its tokens where ``count`` gives them afterwards."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        tokens = count() if count else 0
        self.journal.add_evidence(
            Evidence(
                adapter=adapter,
                timings=[
                    Timing(
                        phase=phase,
                        seconds=seconds,
                        tokens=tokens,
                        tokens_per_second=tokens / seconds if tokens else 0.0,
                    )
                ],
            )
        )

    def base(self, bench: "Bench") -> "LoadedBase":
        """The adapter's base, loaded once, hashed before anything else happens to it."""
        ref = bench.target.base
        if ref is None:
            raise BaseModelError(bench.target.base_missing)
        if self._loaded is None or self._loaded.ref != ref:
            self.release_base()
            self._loaded = self._load(bench, ref)
        return self._loaded

    def _load(self, bench: "Bench", ref: BaseRef) -> "LoadedBase":
        import torch

        from phi3_lora_qa.models.checksum import checksum
        from phi3_lora_qa.models.loading import load_base

        if ref.id in self._unloadable:  # trying again, a hub would be asked for each check
            raise BaseModelError(self._unloadable[ref.id])
        self.progress(f"loading the base {ref.id}", 0, 0)
        try:
            with self.timed("load base", bench.index):
                base = load_base(ref, self.settings.dtype)
        except BaseModelError as error:
            self._unloadable[ref.id] = str(error)
            raise
        mark = checksum(base.model)
        # A base that is loaded again (after an export) must be the one that was scored.
        if self._checksums.setdefault(ref.id, mark) != mark:
            raise BaseModelError(
                f"the base {ref.id} changed on disk during the run; leave it alone and run again"
            )
        if ref.id not in self._probes:
            self._probes[ref.id] = _logits(base.model, base.tokenizer)
        self.journal.add_evidence(
            Evidence(
                adapter=bench.index,
                environment={
                    "threads": torch.get_num_threads(),
                    "instruction_set": torch.backends.cpu.get_cpu_capability(),
                },
            )
        )
        return base

    def checksum(self, bench: "Bench") -> str:
        """The base's checksum from before any adapter was attached."""
        return self._checksums[self.base(bench).ref.id]

    def probe_logits(self, bench: "Bench") -> Array:
        """The base's logits on the probe from before any adapter was attached."""
        return self._probes[self.base(bench).ref.id]

    def logits(self, bench: "Bench", model: Any) -> Array:
        """A model's logits on the fixed probe text, float64 (tokens, vocabulary)."""
        return _logits(model, self.base(bench).tokenizer)

    def base_scores(self, bench: "Bench") -> tuple["ItemScore", ...]:
        """The base's scores on the adapter's items, computed once for all adapters."""
        base = self.base(bench)
        key = (base.ref.id, bench.target.items)
        if key not in self._scores:
            bench.require_detached()
            self._scores[key] = self.score(bench, base, base.model, "score base")
        return self._scores[key]

    def score(
        self,
        bench: "Bench",
        base: "LoadedBase",
        model: Any,
        phase: str,
        items: Sequence[Item] | None = None,
    ) -> tuple["ItemScore", ...]:
        """Score a model (``base`` itself or what stands on it) on the adapter's items or some."""
        from phi3_lora_qa.scoring.score import ScoringOptions, score_items

        scores: tuple[ItemScore, ...] = ()
        options = ScoringOptions(seed=self.settings.seed)
        asked = bench.target.items if items is None else items

        def report(done: int, total: int) -> None:
            self.progress(f"{phase}, {bench.target.name}", done, total)

        with self.timed(phase, bench.index, lambda: sum(score.tokens for score in scores)):
            scores = score_items(model, base.tokenizer, asked, options, report)
        return scores

    def score_merged(
        self, bench: "Bench", folder: Path, items: Sequence[Item]
    ) -> tuple["ItemScore", ...]:
        """Load a saved model beside no other, and score it."""
        from phi3_lora_qa.models.loading import load_base

        self.release_base()
        merged = load_base(resolve_base(str(folder)), self.settings.dtype)
        return self.score(bench, merged, merged.model, "score merged", items)

    def score_saved_adapter(
        self, bench: "Bench", folder: Path, items: Sequence[Item]
    ) -> tuple["ItemScore", ...]:
        """Load the base again, put a saved adapter on it, and score that."""
        from phi3_lora_qa.models.attach import attach

        self.release_base()
        base = self.base(bench)
        return self.score(bench, base, attach(base.model, folder), "score exported", items)

    def release_base(self) -> None:
        """Let go of the base and whatever is attached to it."""
        for bench in self._benches.values():
            bench.forget_model()
        self._loaded = None
        gc.collect()


def _logits(model: Any, tokenizer: Any) -> Array:
    import torch

    from phi3_lora_qa.gate.layers import to_float64

    ids = tokenizer(PROBE, return_tensors="pt").input_ids
    with torch.inference_mode():
        return to_float64(model(input_ids=ids).logits[0])


class Bench:
    """One adapter on the workbench: its files, its lint report, its attached model, its scores."""

    def __init__(self, run: Run, index: int, target: Target) -> None:
        self.run, self.index, self.target = run, index, target
        self._tuned: Any = None

    @cached_property
    def folder(self) -> AdapterFolder:
        """The private copy: what is linted is what is loaded.

        Only files that matter were copied; the listing keeps what else lay beside them (links,
        pickles, programs), so that the rules on files see it.
        """
        copied = AdapterFolder.open(snapshot_of(self.run.folder, self.index))
        given = self.target.listing.entries
        return replace(copied, entries={**given, **copied.entries})

    @cached_property
    def lint(self) -> LintReport:
        """The lint report of the private copy, against the base's files where they are on disk."""
        base = self.target.base
        files = BaseFiles.open(base.folder) if base and base.folder else None
        asked = self.run.settings
        selection = read_selection(asked.lint_select, asked.lint_ignore, asked.lint_levels)
        return lint(self.folder, files, selection)

    def refusal(self) -> str:
        """Why no model may be run with this adapter; empty when the static stage accepts it."""
        errors = [f for f in self.lint.findings if f.severity is Severity.ERROR]
        if not errors:
            return ""
        return f"not run: the static stage refused the adapter ({errors[0].rule})"

    @cached_property
    def config(self) -> LoraAdapterConfig:
        """The adapter's config, which the static stage accepted."""
        return read_config(self.folder)

    @cached_property
    def factors(self) -> Mapping[str, Factors]:
        """Every module's factors from the file, by the module's path in the base."""
        return read_factors(self.folder)

    @property
    def tuned(self) -> Any:
        """The base with this adapter attached. The base is scored before that happens."""
        if self._tuned is None:
            from phi3_lora_qa.models.attach import attach

            base = self.run.base(self)
            if "quality" in self.run.stages:
                self.run.base_scores(self)
            for other in self.run._benches.values():
                other.forget_model()
            with self.run.timed("attach adapter", self.index):
                self._tuned = attach(base.model, self.folder.path)
        return self._tuned

    def detach(self) -> Any:
        """Unload the adapter as PEFT does it; return the plain model that remains."""
        plain = self.tuned.unload()
        self._tuned = None
        return plain

    @property
    def base_is_checked(self) -> bool:
        """Whether the adapter is held against a base.

        A base that is still to be downloaded is not looked at by the static stage, but attaching
        compares every name and shape with it, if a later stage gets that far.
        """
        base = self.target.base
        return base is not None and (base.folder is not None or self.run.stages != {"static"})

    def require_items(self) -> None:
        """Raise BaseModelError where there is nothing to ask the models."""
        if not self.target.items:
            raise BaseModelError(
                self.target.base_missing or "the suite is empty; give items with --phi3-suite"
            )

    def require_detached(self) -> None:
        """Assert the order that the comparison rests on."""
        if any(bench._tuned is not None for bench in self.run._benches.values()):
            raise AssertionError("the base must be scored before an adapter is attached")

    def forget_model(self) -> None:
        """Let go of the attached model."""
        self._tuned = None

    @cached_property
    def tuned_scores(self) -> tuple["ItemScore", ...]:
        """The tuned model's scores on the items."""
        return self.run.score(self, self.run.base(self), self.tuned, "score tuned")

    @cached_property
    def rows(self) -> tuple[ItemRow, ...]:
        """Base and tuned side by side, one row an item; journaled once."""
        self.require_items()
        base, tuned = self.run.base_scores(self), self.tuned_scores
        with self.run.timed("compute metrics", self.index):
            rows = join_scores(self.target.items, base, tuned)
        self.run.journal.add_evidence(Evidence(adapter=self.index, items=rows))
        return rows

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric of every group, judged where there is a limit; journaled once."""
        metrics = measure(self.rows, self.target.limits, self.run.settings.seed)
        self.run.journal.add_evidence(Evidence(adapter=self.index, metrics=metrics))
        return metrics

    def items_needed(self, limit: Limit) -> int:
        """About how many items would decide a limit; 0 where no number would."""
        return needed(self.rows, limit, self.run.settings.seed)

    def add_spectra(self, spectra: Sequence[Spectrum]) -> None:
        """Keep the modules' spectra for the record."""
        self.run.journal.add_evidence(Evidence(adapter=self.index, spectra=spectra))
