"""Base and tuned model compared on one adapter's items: scores, rows, metrics and limits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.adapter_under_test import AdapterUnderTest
from phi3_lora_qa.gate.comparison import items_to_decide, measure, select_metrics
from phi3_lora_qa.gate.early_stopping import score_until_decided
from phi3_lora_qa.gate.item_rows import join_scores
from phi3_lora_qa.gate.journal import Evidence
from phi3_lora_qa.gate.model_host import ModelHost
from phi3_lora_qa.gate.model_scorer import ModelScorer
from phi3_lora_qa.gate.paired_scores import ComparisonConfig, SkippedItem
from phi3_lora_qa.gate.phase_log import PhaseLog
from phi3_lora_qa.record import ItemRow, Metric
from phi3_lora_qa.setting_specs import UNQUANTIZED
from phi3_lora_qa.settings import GateSettings

if TYPE_CHECKING:
    from phi3_lora_qa.models.loading import LoadedBase
    from phi3_lora_qa.scoring.score_items import ItemScore


class QualityComparison:
    """Scores the base and the tuned model of one adapter, and compares them. Each step runs once.

    Attributes:
        config: How the scores are compared, and with which limits.
    """

    def __init__(  # noqa: PLR0913 - the parts that it combines
        self,
        adapter: AdapterUnderTest,
        models: ModelHost,
        scorer: ModelScorer,
        settings: GateSettings,
        log: PhaseLog,
        *,
        scores_base_first: bool,
    ) -> None:
        """Prepare the comparison; nothing is scored yet.

        Args:
            adapter: The adapter.
            models: Loads its models.
            scorer: Scores them.
            settings: The settings of the run.
            log: The log of the work.
            scores_base_first: Whether the base's scores will be needed, so that they are computed
                before the adapter is attached to it.
        """
        self._adapter, self._models, self._scorer = adapter, models, scorer
        self._log, self._scores_base_first = log, scores_base_first
        self._quantization = settings.quantization
        self._stops_early = settings.early_stop == "on" and settings.profile != "strict"
        job = adapter.job
        self.config = ComparisonConfig(
            limits=job.limits,
            metrics=select_metrics(job.metrics, job.limits),
            seed=settings.seed,
            order=settings.order,
            baseline=job.baseline,
        )
        self._tuned_scores: tuple[ItemScore, ...] | None = None
        self._rows: tuple[ItemRow, ...] | None = None
        self._metrics: tuple[Metric, ...] | None = None

    @property
    def is_served(self) -> bool:
        """Whether a server scores both models."""
        return bool(self._scorer.server)

    def attach_adapter(self) -> Any:
        """Return the tuned model; the base is scored before the adapter is first attached.

        Its base is not quantized: checkpoint and export are about the numbers that are saved.

        Raises:
            BaseModelError: There is no base, or it cannot be loaded.
            AdapterError: The adapter cannot be attached.
        """
        return self._attach(UNQUANTIZED)

    def _attach(self, quantization: str) -> Any:
        ref = self._adapter.job.require_base()
        if self._scores_base_first and not self.is_served:
            self.score_base()
        return self._models.attach_adapter(ref, self._adapter.copy, self._log, quantization)

    def score_base(self) -> tuple["ItemScore", ...]:
        """Return the base's scores on all items."""
        return self._scorer.score_base(self._adapter.job, self._log)

    def score_tuned(self) -> tuple["ItemScore", ...]:
        """Return the tuned model's scores, without the items that early stopping skipped."""
        if self._tuned_scores is None:
            job = self._adapter.job
            if self.is_served:
                self._tuned_scores = self._scorer.score_served("tuned", job, self._log)
            elif self._stops_early:
                self._tuned_scores = score_until_decided(
                    job.items, self.score_base(), self._score_tuned_items, self.config
                )
            else:
                self._tuned_scores = self._score_tuned_items(job.items)
        return self._tuned_scores

    def score_tuned_locally(self, items: Sequence[Item]) -> Sequence["ItemScore"]:
        """Return the scores of the tuned model in this process, on the given items or more.

        An exported model is scored in this process, too, and is not quantized: only the same
        arithmetic is comparable.
        """
        if not self.is_served and self._quantization == UNQUANTIZED:
            scored = {score.item_id for score in self.score_tuned()}
            if scored.issuperset(item.id for item in items):
                return self.score_tuned()
        return self._score_tuned_items(items, "score tuned here", UNQUANTIZED)

    def score_exported(
        self, base: "LoadedBase", model: Any, items: Sequence[Item], phase: str
    ) -> tuple["ItemScore", ...]:
        """Return the scores of a model that was exported and loaded again."""
        job = self._adapter.job
        return self._scorer.score_model(
            model, base.tokenizer, job, items, phase=phase, log=self._log
        )

    def list_skipped(self) -> tuple[SkippedItem, ...]:
        """Return the items that early stopping skipped."""
        scored = {score.item_id for score in self.score_tuned()}
        items = self._adapter.job.items
        return tuple(
            SkippedItem(item=item, base=base)
            for item, base in zip(items, self.score_base(), strict=True)
            if item.id not in scored
        )

    def require_items(self) -> None:
        """Raise an error if there are no items.

        Raises:
            BaseModelError: There are none.
        """
        job = self._adapter.job
        if not job.items:
            raise BaseModelError(
                job.base_missing or "the suite is empty; pass items with --phi3-suite"
            )

    def compare_items(self) -> tuple[ItemRow, ...]:
        """Return base and tuned model side by side, one row for each scored item.

        Raises:
            BaseModelError: There are no items, or no base.
        """
        if self._rows is None:
            self.require_items()
            base, tuned = self.score_base(), self.score_tuned()
            scored = {score.item_id for score in tuned}
            with self._log.timed("compute metrics"):
                self._rows = join_scores(
                    [item for item in self._adapter.job.items if item.id in scored],
                    [score for score in base if score.item_id in scored],
                    tuned,
                    self.config.metrics,
                )
            journal = self._log.journal
            journal.add_evidence(Evidence(adapter=self._log.adapter, items=self._rows))
        return self._rows

    def compute_metrics(self) -> tuple[Metric, ...]:
        """Return every metric of every group, with an outcome if it has a limit."""
        if self._metrics is None:
            self._metrics = measure(self.compare_items(), self.config, self.list_skipped())
            journal = self._log.journal
            journal.add_evidence(Evidence(adapter=self._log.adapter, metrics=self._metrics))
        return self._metrics

    def estimate_items_needed(self, limit: Limit) -> int:
        """Return about how many items would decide a limit; 0 if no number would."""
        return items_to_decide(self.compare_items(), limit, self.config)

    def _score_tuned_items(
        self, items: Sequence[Item], phase: str = "score tuned", quantization: str | None = None
    ) -> tuple["ItemScore", ...]:
        """Score items under the tuned model, on the base as the settings quantize it by default."""
        job = self._adapter.job
        kind = self._quantization if quantization is None else quantization
        tuned = self._attach(kind)
        tokenizer = self._models.load_base(job.require_base(), self._log, kind).tokenizer
        return self._scorer.score_model(tuned, tokenizer, job, items, phase=phase, log=self._log)
