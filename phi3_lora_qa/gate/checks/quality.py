"""Quality stage: base and tuned on the same items, each limit one check.

Each limit is tested at its own level. That is right because all of them must hold: a model that is
too bad at one thing gets through only where that one test errs (an intersection-union test). What
asks "did anything at all get worse?" is the alarm, and it allows for having looked everywhere.
"""

from collections.abc import Sequence

from phi3_lora_qa.data.item_table import error_text
from phi3_lora_qa.data.thresholds import BASE, BASELINE, COMPARING, Limit
from phi3_lora_qa.dataclass_json import Json, to_plain
from phi3_lora_qa.gate.baseline import base_moved
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, CheckFunction, Held, check_of
from phi3_lora_qa.gate.comparison import RegressionTest, regression_tests
from phi3_lora_qa.record import ItemRow, Metric, Outcome
from phi3_lora_qa.stats.attainable_limits import ITEMS, suggest_limit
from phi3_lora_qa.stats.paired import MANY_ITEMS

MOST_SHOWN = 5

MOST_MOVED = 0.5
"""Of a limit against the last accepted adapter: so far may the base have moved since."""
MOVED_BY_ROUNDING = 1e-3


def checks(limits: Sequence[Limit]) -> tuple[Check, ...]:
    """Return the check that every item was scored, the alarm, and one check for each limit."""
    return (
        check_of("quality", every_item_is_scored),
        check_of("quality", no_regression_alarm),
        *(
            Check(
                stage="quality",
                name=limit.metric,
                parameter=_parameter(limit, limits),
                demand=f"{limit.describe()}, of the group {limit.group!r}",
                run=_holds(limit),
            )
            for limit in limits
        ),
    )


def every_item_is_scored(bench: Bench) -> Held:
    """Base and tuned model each gave every item a loss and an answer."""
    rows = bench.rows
    broken = [row for row in rows if row.failed]
    if broken:
        raise CheckFailedError(
            f"{len(broken)} of {len(rows)} items were not scored; first {broken[0].id}: "
            f"{error_text(broken[0])}",
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
    spared = len(bench.spared)
    early = (
        f"; the other {spared} were spared, as what all would say is certain (a record for "
        "--phi3-baseline needs them: --phi3-early-stop off)"
        if spared
        else ""
    )
    return Held(
        message=f"{len(rows)} items were scored by base and tuned model{early}{left_out}",
        measured={"scored": len(rows), "skipped_early": spared},
    )


def no_regression_alarm(bench: Bench) -> Held:
    """Nothing got worse than with the base beyond chance; told, and with ``strict`` demanded."""
    _require_scored(bench.rows)
    found = regression_tests(bench.rows, bench.demands)
    raised = sorted((a for a in found if a.raised), key=lambda alarm: alarm.p_value)
    measured = {"alarms": [to_plain(alarm) for alarm in found]}
    if not raised:
        return Held(
            message=f"none of {len(found)} comparisons got worse than with the base beyond chance "
            "(Holm, 5 % over all of them)",
            measured=measured,
        )
    words = (
        f"{len(raised)} of {len(found)} comparisons got worse than with the base beyond chance "
        f"(Holm, 5 % over all of them): {_listed(raised)}"
    )
    if bench.run.settings.profile == "strict":
        raise CheckFailedError(
            words,
            "mend the training data or the learning rate; or take the profile default, which "
            "allows what the limits allow",
            measured,
        )
    return Held(message=f"warning: {words}; the limits say how much is allowed", measured=measured)


def _listed(raised: Sequence[RegressionTest]) -> str:
    shown = [
        f"{alarm.metric} on {alarm.group} {alarm.difference:+.4g} (p {alarm.p_value:.2g})"
        for alarm in raised[:MOST_SHOWN]
    ]
    return ", ".join(shown) + (" and more" if len(raised) > MOST_SHOWN else "")


def _tuned_alone(row: ItemRow) -> bool:
    return bool(row.tuned_error) and not row.base_error


def _parameter(limit: Limit, limits: Sequence[Limit]) -> str:
    """The group; behind it the rule where a metric has several, and what it is against."""
    kind = (limit.group, limit.metric, limit.against)
    alike = [other for other in limits if (other.group, other.metric, other.against) == kind]
    parts = [limit.group, limit.rule if len(alike) > 1 else "", limit.against]
    return ",".join(part for part in parts if part and part != BASE)


def _require_scored(rows: Sequence[ItemRow]) -> None:
    if broken := [row for row in rows if row.failed]:
        raise CheckFailedError(
            f"{len(broken)} items were not scored; first {broken[0].id}: {error_text(broken[0])}",
            "see the check every_item_is_scored",
            outcome=Outcome.NOT_RUN,
        )


def _holds(limit: Limit) -> CheckFunction:
    def run(bench: Bench) -> Held:
        _require_scored([row for row in bench.rows if row.group == limit.group])
        if limit.against == BASELINE and not bench.target.baseline:
            raise CheckFailedError(
                f"{limit.metric} on {limit.group} is to be held against the last accepted adapter, "
                "and there is none",
                "give its record with --phi3-baseline RECORD, or drop the limit",
                outcome=Outcome.NOT_RUN,
            )
        metric = _find(bench.metrics, limit)
        moved = _require_measured_alike(bench, limit) if limit.against == BASELINE else ""
        words = (
            f"{limit.metric} on {limit.group}: {_figures(limit, metric)} over "
            f"{metric.n} items; limit: {limit.describe()}{moved}"
        )
        measured = {"metric": to_plain(metric)}
        if metric.outcome is Outcome.PASSED:
            return Held(message=words, measured=measured)
        if metric.outcome is Outcome.INCONCLUSIVE:
            raise _undecided(bench, limit, words, measured)
        raise CheckFailedError(
            words,
            "look at what got worse in the report; mend the training data or the learning rate, "
            "or, if the loss is acceptable, set the limit with --phi3-thresholds",
            measured,
        )

    return run


def _undecided(
    bench: Bench, limit: Limit, words: str, measured: dict[str, Json]
) -> CheckFailedError:
    """Say how many items would decide a limit, or that none would and what to write instead."""
    info = next(info for info in bench.measured if info.name == limit.metric)
    other = suggest_limit(
        limit.rule,
        limit.value,
        info.span,
        higher_is_better=info.higher_is_better,
        from_best=info.relative and limit.against == BASE,
    )
    needed = 0 if other else bench.items_needed(limit)
    why = "too few items to decide"
    fix = f"about {needed} items in the group {limit.group} would decide it"
    if other:
        why = "no number of items can show this, as no bound reaches the end of what is possible"
        fix = (
            f"write {other.rule} {other.value:g}, which about {ITEMS} items in the group "
            f"{limit.group} can show, if none falls short"
        )
    elif needed == MANY_ITEMS:
        needed, why = 0, "what was seen is too near to the limit for any suite to decide"
        fix = "set another limit, such as one with a wider margin"
    elif not needed:
        fix = "give more items, or a wider margin"
    found = measured | {"items_needed": needed}
    return CheckFailedError(f"{why}: {words}", fix, found, Outcome.INCONCLUSIVE)


def _figures(limit: Limit, metric: Metric) -> str:
    """Both means and the difference, with the interval at that which the limit is of."""
    before = f"{limit.against} {metric.base:.4g}, tuned {metric.tuned:.4g}"
    if limit.rule in COMPARING:
        bounds = f"[{metric.low:+.4g}, {metric.high:+.4g}]"
        return f"{before}, difference {metric.difference:+.4g} {bounds}"
    return f"{before} [{metric.low:.4g}, {metric.high:.4g}]"


def _require_measured_alike(bench: Bench, limit: Limit) -> str:
    """Hold the base, which is the same, against what it was then; say how far it has moved."""
    info = next(info for info in bench.measured if info.name == limit.metric)
    moved = base_moved(bench.rows, bench.target.baseline, limit.group, info)
    if abs(moved) <= MOVED_BY_ROUNDING:
        return ""
    words = (
        f"{limit.metric} of the base on {limit.group} has moved by {moved:+.3g} since the last "
        "accepted adapter was gated"
    )
    if abs(moved) > MOST_MOVED * limit.value:
        raise CheckFailedError(
            f"{words}, though it is the same base, so the two adapters were not measured alike",
            "gate the accepted adapter again here, with these versions and metrics and with "
            "--phi3-early-stop off, and give that record",
            {"base_moved": moved},
            Outcome.NOT_RUN,
        )
    return f" ({words})"


def _find(metrics: Sequence[Metric], limit: Limit) -> Metric:
    for metric in metrics:
        if metric.limit == limit.entry():
            return metric
    if any(metric.group == limit.group for metric in metrics):
        raise CheckFailedError(
            f"{limit.metric} was not measured on every item of {limit.group}"
            + (" for the last accepted adapter" if limit.against == BASELINE else ""),
            "give the record of an adapter that was gated with this version, or remove the limit"
            if limit.against == BASELINE
            else "give the items what it needs (checks or choices), or remove the limit",
            outcome=Outcome.NOT_RUN,
        )
    raise CheckFailedError(
        f"{limit.metric} was not measured on {limit.group}: the suite has no such items",
        f"add items of the group {limit.group} to the suite, or remove the limit",
        outcome=Outcome.NOT_RUN,
    )
