"""The scores of one metric in one group, paired item by item, and their interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.thresholds import BASE, BASELINE, Limit
from phi3_lora_qa.gate.item_rows import score_of, score_side
from phi3_lora_qa.metrics import MetricInfo
from phi3_lora_qa.record import Against, ItemRow
from phi3_lora_qa.stats import full_suite_bounds
from phi3_lora_qa.stats.multiple_testing import worse_p_value
from phi3_lora_qa.stats.paired import Interval, compare

if TYPE_CHECKING:
    from phi3_lora_qa.scoring.score_items import ItemScore


@dataclass(frozen=True, kw_only=True)
class SkippedItem:
    """An item that early stopping skipped for the tuned model, and the base's score of it."""

    item: Item
    base: "ItemScore"


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """How rows are compared, and the limits that apply.

    Attributes:
        limits: One for each group and metric with a limit (`thresholds.expand`).
        metrics: The metrics that are measured.
        seed: Seed of the resampling.
        order: Seed of the order in which items are evaluated.
        baseline: The last accepted adapter's rows of the same items; empty without one.
    """

    limits: Sequence[Limit]
    metrics: Sequence[MetricInfo]
    seed: int
    order: int = 0
    baseline: Sequence[ItemRow] = ()

    @property
    def level(self) -> float:
        """The error probability of the prediction for one limit; the limits share the total."""
        return full_suite_bounds.LEVEL / max(1, len(self.limits))


@dataclass(frozen=True, kw_only=True)
class PairedScores:
    """The scores of one metric in one group, item by item, and the items' clusters.

    ``before`` are the base's scores, or the baseline's; ``after`` are the tuned model's. ``rest``
    are the scores ``before`` of the items that early stopping skipped.
    """

    group: str
    info: MetricInfo
    against: Against
    ids: list[str]
    before: list[float]
    after: list[float]
    clusters: list[str]
    rest: list[float]

    @property
    def difference(self) -> float:
        """The mean of ``after`` minus the mean of ``before``."""
        return math.fsum([*self.after, *(-value for value in self.before)]) / len(self.after)

    def compare(self, config: ComparisonConfig) -> Interval:
        """Return the interval of the difference: of the whole suite if items were skipped."""
        seed = config.seed
        if self.rest:
            place = [full_suite_bounds.sampling_key(name, config.order) for name in self.ids]
            order = sorted(range(len(self.ids)), key=place.__getitem__)
            return full_suite_bounds.bound_full_suite(
                [*(self.before[n] for n in order), *self.rest],
                [self.after[n] for n in order],
                level=config.level,
                seed=seed,
                binary=self.info.binary,
                span=self.info.span,
                # The range of a custom metric is known only if the metric declares it.
                likely=None if self.info.import_path else full_suite_bounds.ASSUMED_LOSS_RANGE,
            )
        return compare(
            self.before,
            self.after,
            seed=seed,
            binary=self.info.binary,
            span=self.info.span,
            clusters=self.clusters,
        )

    def worse_p_value(self, seed: int) -> float:
        """Return the one-sided p-value of the null hypothesis that nothing got worse."""
        sign = 1.0 if self.info.higher_is_better else -1.0
        gains = [sign * (a - b) for b, a in zip(self.before, self.after, strict=True)]
        return worse_p_value(gains, seed=seed, clusters=self.clusters)


def pair_scores(
    rows: Sequence[ItemRow],
    group: str,
    info: MetricInfo,
    baseline: Sequence[ItemRow] | None = None,
    skipped: Sequence[SkippedItem] = (),
) -> PairedScores | None:
    """Pair the tuned model's scores with the base's, or with the baseline's if there is one.

    Items that the metric does not apply to are left out.

    Args:
        rows: The items that both models were evaluated on.
        group: The group of items.
        info: The metric.
        baseline: The rows of the last accepted adapter, to compare with instead of the base.
        skipped: The items that early stopping skipped.

    Returns:
        The pairs; None if no item is left, or if an item has no score in the baseline.
    """
    mine = [r for r in rows if r.group == group and not r.failed and score_of(r, info) is not None]
    accepted = {row.id: row for row in baseline or ()}
    others = mine if baseline is None else [accepted.get(row.id) for row in mine]
    before, after = ([score_of(row, info) for row in side] for side in (others, mine))
    column = 0 if baseline is None else 1
    rest = _rest(group, info, skipped, None if baseline is None else accepted)
    if not mine or None in (*before, *after, *rest):
        return None
    return PairedScores(
        group=group,
        info=info,
        against=BASE if baseline is None else BASELINE,
        ids=[row.id for row in mine],
        before=[pair[column] for pair in before if pair],
        after=[pair[1] for pair in after if pair],
        clusters=[row.cluster for row in mine],
        rest=[value for value in rest if value is not None],
    )


def _rest(
    group: str,
    info: MetricInfo,
    skipped: Sequence[SkippedItem],
    accepted: Mapping[str, ItemRow] | None,
) -> list[float | None]:
    """Return the scores of the base, or of the last accepted adapter, on the skipped items."""
    mine = [
        other
        for other in skipped
        if other.item.group == group and (not info.generated or info.applies(other.item))
    ]
    if accepted is not None:
        scores = [score_of(accepted.get(other.item.id), info) for other in mine]
        return [pair[1] if pair else None for pair in scores]
    if not info.generated:
        return [other.base.loss for other in mine]
    items, base = [other.item for other in mine], [other.base for other in mine]
    return [value for value in score_side(info, items, base, base=True) if not math.isnan(value)]
