"""One adapter on the workbench: its files, its lint report, its attached model, its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.config import LoraAdapterConfig, read_config
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, Severity, lint
from phi3_lora_qa.adapter.rule_selection import selection_of
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.adapter_factors import read_factors
from phi3_lora_qa.gate.comparison import items_to_decide, measure, select_metrics
from phi3_lora_qa.gate.early_stopping import score_until_settled
from phi3_lora_qa.gate.item_rows import join_scores
from phi3_lora_qa.gate.journal import Evidence
from phi3_lora_qa.gate.paired_scores import ComparisonConfig, SkippedItem
from phi3_lora_qa.gate.prepare import AdapterJob, snapshot_of
from phi3_lora_qa.lora import Factors
from phi3_lora_qa.metrics import MetricInfo
from phi3_lora_qa.record import ItemRow, Metric, Spectrum

if TYPE_CHECKING:
    from phi3_lora_qa.gate.context import Run
    from phi3_lora_qa.gate.module_stats import ModuleMeasure
    from phi3_lora_qa.scoring.score_items import ItemScore


class Bench:
    """One adapter on the workbench: its files, its lint report, its attached model, its scores."""

    def __init__(self, run: "Run", index: int, target: AdapterJob) -> None:
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
        files = BaseFiles.open(base.folder, id=base.id) if base and base.folder else None
        return lint(self.folder, files, selection_of(self.run.settings))

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

    @cached_property
    def stored_factors(self) -> Mapping[str, Factors]:
        """The same factors as they lie in the file."""
        return read_factors(self.folder, stored=True)

    @cached_property
    def modules(self) -> Sequence["ModuleMeasure"]:
        """What the math stage has measured of every adapted module; measured once."""
        from phi3_lora_qa.gate.module_stats import measure_modules

        with self.run.timed("measure modules", self.index):
            return measure_modules(self)

    @property
    def tuned(self) -> Any:
        """The base with this adapter attached. The base is scored before that happens."""
        if self._tuned is None:
            from phi3_lora_qa.models.attach import attach

            base = self.run.base(self)
            if "quality" in self.run.stages and not self.run.server:
                self.run.base_scores(self)
            for other in self.run.benches.values():
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
        if any(bench._tuned is not None for bench in self.run.benches.values()):
            raise AssertionError("the base must be scored before an adapter is attached")

    def forget_model(self) -> None:
        """Let go of the attached model."""
        self._tuned = None

    @cached_property
    def tuned_scores(self) -> tuple["ItemScore", ...]:
        """The tuned model's scores on the items."""
        if self.run.server:
            return self.run.score_served(self, "tuned")
        settings = self.run.settings
        if settings.early_stop == "off" or settings.profile == "strict":
            return self._score_tuned(self.target.items)
        return score_until_settled(self, self.run.base_scores(self), self._score_tuned)

    def _score_tuned(self, items: Sequence[Item]) -> tuple["ItemScore", ...]:
        return self.run.score(self, self.run.base(self), self.tuned, "score tuned", items)

    @cached_property
    def asked(self) -> frozenset[str]:
        """The ids of the items that the tuned model was asked."""
        return frozenset(score.item_id for score in self.tuned_scores)

    @cached_property
    def spared(self) -> tuple[SkippedItem, ...]:
        """The items that the tuned model was not asked, as its outcome was certain without them."""
        return tuple(
            SkippedItem(item=item, base=base)
            for item, base in zip(self.target.items, self.run.base_scores(self), strict=True)
            if item.id not in self.asked
        )

    def local_tuned_scores(self, items: Sequence[Item]) -> Sequence["ItemScore"]:
        """The scores of the tuned model in this process, on some items or more.

        An exported model is scored here too, and only the same arithmetic is comparable.
        """
        if not self.run.server and self.asked.issuperset(item.id for item in items):
            return self.tuned_scores
        return self.run.score(self, self.run.base(self), self.tuned, "score tuned here", items)

    @cached_property
    def measured(self) -> tuple[MetricInfo, ...]:
        """The metrics that this adapter's items are measured by."""
        return select_metrics(self.target.metrics, self.target.limits)

    @property
    def demands(self) -> ComparisonConfig:
        """How this adapter's rows are compared, and what is asked of them."""
        return ComparisonConfig(
            limits=self.target.limits,
            metrics=self.measured,
            seed=self.run.settings.seed,
            order=self.run.settings.order,
            baseline=self.target.baseline,
        )

    @cached_property
    def rows(self) -> tuple[ItemRow, ...]:
        """Base and tuned side by side, one row an item; journaled once."""
        self.require_items()
        base, tuned = self.run.base_scores(self), self.tuned_scores
        with self.run.timed("compute metrics", self.index):
            rows = join_scores(
                [item for item in self.target.items if item.id in self.asked],
                [score for score in base if score.item_id in self.asked],
                tuned,
                self.measured,
            )
        self.run.journal.add_evidence(Evidence(adapter=self.index, items=rows))
        return rows

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric of every group, judged where there is a limit; journaled once."""
        metrics = measure(self.rows, self.demands, self.spared)
        self.run.journal.add_evidence(Evidence(adapter=self.index, metrics=metrics))
        return metrics

    def items_needed(self, limit: Limit) -> int:
        """About how many items would decide a limit; 0 where no number would."""
        return items_to_decide(self.rows, limit, self.demands)

    def add_spectra(self, spectra: Sequence[Spectrum]) -> None:
        """Keep the modules' spectra for the record."""
        self.run.journal.add_evidence(Evidence(adapter=self.index, spectra=spectra))
