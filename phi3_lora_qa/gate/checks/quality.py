"""Quality stage: base and tuned on the same items, each limit one check."""

from collections.abc import Sequence

from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, CheckFunction, Held
from phi3_lora_qa.gate.table import TUNED
from phi3_lora_qa.record import ItemRow, Metric, Outcome, to_plain

MOST_SHOWN = 5


def checks(limits: Sequence[Limit]) -> tuple[Check, ...]:
    """Return the check that every item was scored, and one check for each limit."""
    return (
        Check(stage="quality", name="every_item_is_scored", run=every_item_is_scored),
        *(
            Check(
                stage="quality",
                name=limit.metric,
                parameter=_parameter(limit, limits),
                run=_holds(limit),
            )
            for limit in limits
        ),
    )


def every_item_is_scored(bench: Bench) -> Held:
    """Base and tuned model each gave every item a loss and an answer."""
    rows = bench.rows
    broken = [row for row in rows if row.error]
    if broken:
        raise CheckFailedError(
            f"{len(broken)} of {len(rows)} items were not scored; first {broken[0].id}: "
            f"{broken[0].error}",
            "look at these items in the report: mend those that the base cannot do either; where "
            "the tuned model alone gives no finite loss, its weights are broken",
            {"items": [row.id for row in broken[:MOST_SHOWN]]},
            # What the base could not do either is a fault of the item, and what a server did not
            # do may be the server's.
            Outcome.FAILED
            if any(_tuned_alone(row) for row in broken) and not bench.run.server
            else Outcome.ERROR,
        )
    copies = bench.target.copies
    left_out = f"; {copies} that repeat another item were left out" if copies else ""
    return Held(message=f"{len(rows)} items were scored by base and tuned model{left_out}")


def _tuned_alone(row: ItemRow) -> bool:
    return row.error.startswith(TUNED)


def _parameter(limit: Limit, limits: Sequence[Limit]) -> str:
    """The group; with the rule behind it where one metric of a group has several limits."""
    alike = [o for o in limits if (o.group, o.metric) == (limit.group, limit.metric)]
    return f"{limit.group},{limit.rule}" if len(alike) > 1 else limit.group


def _holds(limit: Limit) -> CheckFunction:
    def run(bench: Bench) -> Held:
        if broken := [row for row in bench.rows if row.group == limit.group and row.error]:
            raise CheckFailedError(
                f"{len(broken)} items of {limit.group} were not scored; first {broken[0].id}: "
                f"{broken[0].error}",
                "see the check every_item_is_scored",
                outcome=Outcome.NOT_RUN,
            )
        metric = _find(bench.metrics, limit)
        words = (
            f"{limit.metric} on {limit.group}: base {metric.base:.4g}, tuned {metric.tuned:.4g}, "
            f"difference {metric.difference:+.4g} [{metric.low:+.4g}, {metric.high:+.4g}] over "
            f"{metric.n} items; wanted: {metric.limit}"
        )
        measured = {"metric": to_plain(metric)}
        if metric.outcome is Outcome.PASSED:
            return Held(message=words, measured=measured)
        if metric.outcome is Outcome.INCONCLUSIVE:
            needed = bench.items_needed(limit)
            raise CheckFailedError(
                f"too few items to decide: {words}",
                f"about {needed} items in the group {limit.group} would decide it"
                if needed
                else "give more items, or a wider margin",
                measured | {"items_needed": needed},
                Outcome.INCONCLUSIVE,
            )
        raise CheckFailedError(
            words,
            "look at what got worse in the report; mend the training data or the learning rate, "
            "or, if the loss is acceptable, set the limit with --phi3-thresholds",
            measured,
        )

    return run


def _find(metrics: Sequence[Metric], limit: Limit) -> Metric:
    for metric in metrics:
        if (metric.group, metric.metric, metric.limit) == (
            limit.group,
            limit.metric,
            limit.describe(),
        ):
            return metric
    raise CheckFailedError(
        f"{limit.metric} was not measured on {limit.group}: the suite has no such items",
        f"add items of the group {limit.group} to the suite, or remove the limit",
        outcome=Outcome.NOT_RUN,
    )
