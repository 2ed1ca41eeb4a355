"""Finds the limits that a suite has enough items to decide, by the gate's own intervals.

The gate's own decision is applied to a simulated result: that of an adapter that changes nothing,
or, if a limit requires it, that of one that improves everything. If a limit is inconclusive even
then, the suite has too few items for it. (An adapter that improves a group can pass a
``no_worse_than`` with fewer, but that cannot be relied on.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.thresholds import BASE, Limit
from phi3_lora_qa.metrics import MetricInfo
from phi3_lora_qa.record import LimitEntry, Outcome
from phi3_lora_qa.stats.attainable_limits import suggest_limit
from phi3_lora_qa.stats.paired import compare, decide

MOST_ITEMS = 4_096
"""The most items that are tried in the search for the number that a limit needs."""

_FAR = 10.0
"""How far the simulated result of a metric without a range is beyond the limit."""

_SPREAD = 1e-6
"""The variation of its differences: if the sums of clusters were equal, they would show less."""

_Scores = tuple[list[float], list[float]]


@dataclass(frozen=True, kw_only=True)
class LimitFeasibility:
    """Whether a suite can decide a limit.

    Attributes:
        limit: The limit.
        items: The number of items that it applies to: those of its group that have the metric.
        decidable: Whether the simulated result passes.
        items_needed: The fewest items with which it does; 0 if it passes anyway, or if no number
            up to `MOST_ITEMS` is enough.
        attainable: A limit that can be decided, if no number of items decides this one.
    """

    limit: LimitEntry
    items: int
    decidable: bool
    items_needed: int = 0
    attainable: LimitEntry | None = None


def check_limits(
    items: Sequence[Item], limits: Sequence[Limit], metrics: Sequence[MetricInfo]
) -> tuple[LimitFeasibility, ...]:
    """Return for each limit whether a suite can decide it.

    With ``no_worse_than``, nothing changes on any item; with ``improve_by``, every item improves as
    far as possible; with ``at_least`` and ``at_most``, every item has the best score.

    Args:
        items: The suite, without duplicates, as the gate evaluates it.
        limits: The limits, one for each group and metric (`thresholds.expand`).
        metrics: The metrics that they name.
    """
    known = {info.name: info for info in metrics}
    return tuple(_check(items, limit, known[limit.metric]) for limit in limits)


def _check(items: Sequence[Item], limit: Limit, info: MetricInfo) -> LimitFeasibility:
    mine = [item for item in items if item.group == limit.group and info.applies(item)]
    entry = limit.entry()
    if mine and _passes(limit, info, len(mine), [item.cluster for item in mine]):
        return LimitFeasibility(limit=entry, items=len(mine), decidable=True)
    if other := attainable_limit(limit, info):
        return LimitFeasibility(limit=entry, items=len(mine), decidable=False, attainable=other)
    needed = _items_needed(limit, info)
    return LimitFeasibility(limit=entry, items=len(mine), decidable=False, items_needed=needed)


def attainable_limit(limit: Limit, info: MetricInfo) -> LimitEntry | None:
    """Return a limit that can be decided, if no number of items decides this one; else None."""
    other = suggest_limit(
        limit.rule,
        limit.value,
        info.span,
        higher_is_better=info.higher_is_better,
        from_best=info.relative and limit.against == BASE,
    )
    return replace(limit, rule=other.rule, value=other.value).entry() if other else None


def _items_needed(limit: Limit, info: MetricInfo) -> int:
    """Return the fewest independent items with which the simulated result passes; 0 if too many."""
    enough = 1
    while enough <= MOST_ITEMS and not _passes(limit, info, enough):
        enough *= 2
    if enough > MOST_ITEMS:
        return 0
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if _passes(limit, info, middle):
            enough = middle
        else:
            too_few = middle
    return enough


def _passes(limit: Limit, info: MetricInfo, n: int, clusters: Sequence[str] | None = None) -> bool:
    base, tuned = _made_up_scores(limit, info, n)
    interval = compare(base, tuned, seed=0, binary=info.binary, span=info.span, clusters=clusters)
    return decide(interval, limit.rule, limit.value, info.higher_is_better) is Outcome.PASSED


def _made_up_scores(limit: Limit, info: MetricInfo, n: int) -> _Scores:
    if info.span is not None:
        worst, best = info.span if info.higher_is_better else info.span[::-1]
        match limit.rule:
            case "at_least":
                best = info.span[1]
            case "at_most":
                best = info.span[0]
        return [worst if limit.rule == "improve_by" else best] * n, [best] * n
    gain = _FAR if info.higher_is_better else -_FAR
    match limit.rule:
        case "at_least":
            best = limit.value + _FAR
        case "at_most":
            best = limit.value - _FAR
        case "improve_by":
            best = gain + (limit.value if info.higher_is_better else -limit.value)
        case _:
            best = 0.0
    return [0.0] * n, [best + _SPREAD * (number * number % 101) for number in range(n)]
