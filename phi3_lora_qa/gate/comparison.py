"""From scores to rows and metrics: base and tuned side by side, compared pair by pair."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phi3_lora_qa.data.answer_checks import checks_json
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.thresholds import BASE, BASELINE, Limit
from phi3_lora_qa.metrics import (
    MetricInfo,
    RequestedMetric,
    catalogue,
    metrics_to_measure,
    per_item,
)
from phi3_lora_qa.record import ItemRow, Metric, Outcome
from phi3_lora_qa.stats import full_suite_bounds
from phi3_lora_qa.stats.multiple_testing import LEVEL, holm, worse_p_value
from phi3_lora_qa.stats.paired import Interval, compare, decide, items_needed

if TYPE_CHECKING:
    from phi3_lora_qa.scoring.score_items import ItemScore

NO_LIMIT = Outcome.NOT_RUN
"""The outcome of a comparison that was not judged, because nothing was asked of it."""

_SETTLED = (Outcome.PASSED, Outcome.FAILED)

OF_BASE, OF_TUNED = "base: ", "tuned: "
"""How an item's error begins, by the model that it befell."""


@dataclass(frozen=True, kw_only=True)
class RegressionTest:
    """How sure it is that one metric of one group got worse than the base's, however little.

    ``p_value`` is one-sided, and Holm's over all comparisons of the run; ``raised`` where it is
    small enough to be believed.
    """

    group: str
    metric: str
    difference: float
    p_value: float
    raised: bool


@dataclass(frozen=True, kw_only=True)
class SkippedItem:
    """An item that the tuned model was not asked, and what the base made of it."""

    item: Item
    base: "ItemScore"


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """How rows are compared, and what is asked of them.

    Attributes:
        limits: Spelt out group by group.
        metrics: What is measured.
        seed: Of the resampling.
        order: Of the drawing of items.
        baseline: The last accepted adapter's rows of the same items; empty without one.
    """

    limits: Sequence[Limit]
    metrics: Sequence[MetricInfo]
    seed: int
    order: int = 0
    baseline: Sequence[ItemRow] = ()

    @property
    def level(self) -> float:
        """How often what is foreseen of one limit may be wrong: all of them share the whole."""
        return full_suite_bounds.LEVEL / max(1, len(self.limits))


def prompt_text(item: Item) -> str:
    """Return the turns before the answer as a reader sees them."""
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in item.prompt)


def extras_text(item: Item) -> str:
    """Return an item's choices and checks as JSON text; empty where it has neither."""
    if not item.choices and not item.checks:
        return ""
    return json.dumps({"choices": item.choices, "checks": json.loads(checks_json(item.checks))})


def join_scores(
    items: Sequence[Item],
    base: Sequence["ItemScore"],
    tuned: Sequence["ItemScore"],
    metrics: Sequence[MetricInfo],
) -> tuple[ItemRow, ...]:
    """Return one row for each item, with every metric of answers that applies to it, both ways."""
    scores: list[dict[str, tuple[float, float]]] = [{} for _ in items]
    for info in (info for info in metrics if info.generated):
        places = [n for n, item in enumerate(items) if info.applies(item)]
        asked = [items[n] for n in places]
        old = _side(info, asked, [base[n] for n in places], base=True)
        new = _side(info, asked, [tuned[n] for n in places], base=False)
        for n, pair in zip(places, zip(old, new, strict=True), strict=True):
            if not any(map(math.isnan, pair)):  # a server tells less than a model
                scores[n][info.name] = pair
    rows = []
    for number, (item, before, after) in enumerate(zip(items, base, tuned, strict=True)):
        sides = ((OF_BASE, before), (OF_TUNED, after))
        rows.append(
            ItemRow(
                id=item.id,
                group=item.group,
                prompt=prompt_text(item),
                reference=item.reference,
                base_answer=before.answer,
                tuned_answer=after.answer,
                base_loss=before.loss,
                tuned_loss=after.loss,
                tokens=after.tokens,
                scores=scores[number],
                error="; ".join(side + s.error for side, s in sides if s.error),
                cluster=getattr(item, "cluster", ""),
                extras=extras_text(item),
            )
        )
    return tuple(rows)


def chosen(asked: Sequence[RequestedMetric], limits: Sequence[Limit]) -> tuple[MetricInfo, ...]:
    """Return the metrics to measure."""
    return metrics_to_measure(asked, [limit.metric for limit in limits])


def measure(
    rows: Sequence[ItemRow], demands: ComparisonConfig, spared: Sequence[SkippedItem] = ()
) -> tuple[Metric, ...]:
    """Compare every metric in every group that it says something of; judge it by its limits.

    Rows with an error take no part; the check that every item is scored fails for them. A limit
    against a baseline that does not tell the metric gives no Metric, and its check finds none.

    Args:
        rows: The items that both models were asked.
        demands: What is asked of them.
        spared: The items that the tuned model was not asked. In their groups the whole suite's
            intervals are foreseen.
    """
    compared = []
    for group in sorted({row.group for row in rows}):
        for info in demands.metrics:
            mine = [
                limit
                for limit in demands.limits
                if (limit.group, limit.metric) == (group, info.name)
            ]
            for against in (BASE, BASELINE):
                judged: list[Limit | None] = [limit for limit in mine if limit.against == against]
                beside = demands.baseline if against == BASELINE else None
                pairs = _pairs(rows, group, info, beside, spared)
                if against == BASE and not judged:
                    judged = [None]
                if judged and pairs:
                    interval = pairs.compare(demands)
                    compared += [_metric(pairs, interval, limit) for limit in judged]
    return tuple(compared)


def is_settled(
    rows: Sequence[ItemRow], demands: ComparisonConfig, spared: Sequence[SkippedItem]
) -> bool:
    """Tell whether it is certain what the limits of one group say, whatever the items spared hold.

    Never where an item is broken: it must be told whether both models fail at it.

    Args:
        rows: The group's items that were asked.
        demands: What is asked of all groups.
        spared: The group's other items, at least one.
    """
    group = spared[0].item.group
    clusters = [*(row.cluster for row in rows), *(other.item.cluster for other in spared)]
    named = [name for name in clusters if name]
    mine = [limit for limit in demands.limits if limit.group == group]
    broken = [*(row.error for row in rows), *(other.base.error for other in spared)]
    if not mine or any(broken) or len(set(named)) < len(named):
        return False
    for limit in mine:
        info, pairs = _judged(rows, limit, demands, spared)
        if pairs is None or len(pairs.ids) < full_suite_bounds.FIRST_BATCH:
            return False
        interval = pairs.compare(demands)
        if decide(interval, limit.rule, limit.value, info.higher_is_better) not in _SETTLED:
            return False
    return True


def needed(rows: Sequence[ItemRow], limit: Limit, demands: ComparisonConfig) -> int:
    """Estimate how many items would decide a limit."""
    info, pairs = _judged(rows, limit, demands)
    if pairs is None:
        return 0
    return items_needed(pairs.compare(demands), limit.rule, limit.value, info.higher_is_better)


def regression_tests(
    rows: Sequence[ItemRow], demands: ComparisonConfig
) -> tuple[RegressionTest, ...]:
    """Ask of every metric in every group whether it got worse than the base's beyond chance."""
    found = [
        pairs
        for group in sorted({row.group for row in rows})
        for info in demands.metrics
        if not info.relative and (pairs := _pairs(rows, group, info))
    ]
    adjusted = holm([pairs.worse_p_value(demands.seed) for pairs in found])
    return tuple(
        RegressionTest(
            group=pairs.group,
            metric=pairs.info.name,
            difference=pairs.difference,
            p_value=p_value,
            raised=p_value <= LEVEL,
        )
        for pairs, p_value in zip(found, adjusted, strict=True)
    )


def score_of(row: ItemRow | None, info: MetricInfo) -> tuple[float, float] | None:
    """Return what base and tuned model got; None where it was not measured."""
    if row is None:
        return None
    return row.scores.get(info.name) if info.generated else (row.base_loss, row.tuned_loss)


def _judged(
    rows: Sequence[ItemRow],
    limit: Limit,
    demands: ComparisonConfig,
    spared: Sequence[SkippedItem] = (),
) -> tuple[MetricInfo, "_Pairs | None"]:
    """Return a limit's metric, and the pairs that it judges."""
    info = next(info for info in demands.metrics if info.name == limit.metric)
    beside = demands.baseline if limit.against == BASELINE else None
    return info, _pairs(rows, limit.group, info, beside, spared)


def _side(
    info: MetricInfo, items: Sequence[Item], scores: Sequence["ItemScore"], *, base: bool
) -> Sequence[float]:
    """Return a metric of one model, NaN where it was not measured."""
    match info.name:
        case catalogue.STOPPED:
            return [float(score.stopped) for score in scores]
        case catalogue.CHOICE:
            return [_chosen(item, score) for item, score in zip(items, scores, strict=True)]
        case catalogue.DIVERGENCE:
            return [0.0 if base else score.divergence for score in scores]
        case catalogue.AGREEMENT:
            return [1.0 if base else score.agreement for score in scores]
        case _:
            return per_item(info, items, [score.answer for score in scores])


def _chosen(item: Item, score: "ItemScore") -> float:
    if score.choice < 0:
        return math.nan
    return float(item.choices[score.choice] == item.reference)


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """The scores of one metric in one group, item by item, and the items' clusters.

    ``rest`` is what was scored ``before`` on the items that the tuned model was not asked.
    """

    group: str
    info: MetricInfo
    against: str
    ids: list[str]
    before: list[float]
    after: list[float]
    clusters: list[str]
    rest: list[float]

    @property
    def difference(self) -> float:
        return math.fsum([*self.after, *(-value for value in self.before)]) / len(self.after)

    def compare(self, demands: ComparisonConfig) -> Interval:
        seed = demands.seed
        if self.rest:
            place = [full_suite_bounds.sampling_key(name, demands.order) for name in self.ids]
            order = sorted(range(len(self.ids)), key=place.__getitem__)
            return full_suite_bounds.bound_full_suite(
                [*(self.before[n] for n in order), *self.rest],
                [self.after[n] for n in order],
                level=demands.level,
                seed=seed,
                binary=self.info.binary,
                span=self.info.span,
                # What a metric of the user's own can reach is known only where it says so.
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
        sign = 1.0 if self.info.higher_is_better else -1.0
        gains = [sign * (a - b) for b, a in zip(self.before, self.after, strict=True)]
        return worse_p_value(gains, seed=seed, clusters=self.clusters)


def _pairs(
    rows: Sequence[ItemRow],
    group: str,
    info: MetricInfo,
    baseline: Sequence[ItemRow] | None = None,
    spared: Sequence[SkippedItem] = (),
) -> _Pairs | None:
    """Pair the tuned model's scores with the base's, or with the baseline's where one is given.

    Items that the metric says nothing of are left out. None where nothing is left, or where an
    item has no score in the baseline.
    """
    mine = [r for r in rows if r.group == group and not r.error and score_of(r, info) is not None]
    accepted = {row.id: row for row in baseline or ()}
    others = mine if baseline is None else [accepted.get(row.id) for row in mine]
    before, after = ([score_of(row, info) for row in side] for side in (others, mine))
    at_first = 0 if baseline is None else 1
    rest = _rest(group, info, spared, None if baseline is None else accepted)
    if not mine or None in (*before, *after, *rest):
        return None
    return _Pairs(
        group=group,
        info=info,
        against=BASE if baseline is None else BASELINE,
        ids=[row.id for row in mine],
        before=[pair[at_first] for pair in before if pair],
        after=[pair[1] for pair in after if pair],
        clusters=[row.cluster for row in mine],
        rest=[value for value in rest if value is not None],
    )


def _rest(
    group: str,
    info: MetricInfo,
    spared: Sequence[SkippedItem],
    accepted: Mapping[str, ItemRow] | None,
) -> list[float | None]:
    """Return what the base, or the last accepted adapter, got on the items that were spared."""
    mine = [
        other
        for other in spared
        if other.item.group == group and (not info.generated or info.applies(other.item))
    ]
    if accepted is not None:
        scores = [score_of(accepted.get(other.item.id), info) for other in mine]
        return [pair[1] if pair else None for pair in scores]
    if not info.generated:
        return [other.base.loss for other in mine]
    told = _side(info, [other.item for other in mine], [other.base for other in mine], base=True)
    return [value for value in told if not math.isnan(value)]


def _metric(pairs: _Pairs, interval: Interval, limit: Limit | None) -> Metric:
    outcome = NO_LIMIT
    if limit:
        outcome = decide(interval, limit.rule, limit.value, pairs.info.higher_is_better)
    low, high = interval.bounds(limit.rule if limit else "")
    return Metric(
        group=pairs.group,
        metric=pairs.info.name,
        base=interval.mean_base,
        tuned=interval.mean_tuned,
        difference=interval.difference,
        low=low,
        high=high,
        method=interval.method,
        n=interval.n,
        limit=limit.describe() if limit else "",
        outcome=outcome,
        against=pairs.against,
    )
