"""Quality stage: base and tuned model on the same items; each limit is one check.

Each limit is tested at the full level. That is sound because all of them must pass: a model that is
too bad in one respect is accepted only if that one test errs (an intersection-union test). The
regression alarm tests whether anything got worse, so it corrects for multiple testing.
"""

from collections.abc import Sequence

from phi3_lora_qa.data.item_table import error_text
from phi3_lora_qa.data.thresholds import BASE, BASELINE, COMPARING, Limit
from phi3_lora_qa.dataclass_json import to_plain
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.baseline import base_moved
from phi3_lora_qa.gate.check import (
    Check,
    CheckFunction,
    CheckOutcome,
    checks_of,
    errored,
    failed,
    inconclusive,
    not_run,
    passed,
)
from phi3_lora_qa.gate.comparison import RegressionTest, regression_tests
from phi3_lora_qa.gate.limit_feasibility import attainable_limit
from phi3_lora_qa.metrics import MetricInfo
from phi3_lora_qa.record import ItemRow, Metric, Outcome
from phi3_lora_qa.stats.attainable_limits import ITEMS
from phi3_lora_qa.stats.paired import MANY_ITEMS

MOST_SHOWN = 5

LARGEST_BASE_SHIFT = 0.5
"""The largest change of the base's mean since the baseline, as a share of the limit."""
SHIFT_BY_ROUNDING = 1e-3


def checks(limits: Sequence[Limit]) -> tuple[Check, ...]:
    """Return the check that every item was scored, the alarm, and one check for each limit."""
    return (
        *checks_of("quality", every_item_is_scored, no_regression_alarm),
        *(
            Check(
                stage="quality",
                name=limit.metric,
                parameter=_parameter(limit, limits),
                demand=f"{limit.describe()}, in the group {limit.group!r}",
                run=_limit_check(limit),
            )
            for limit in limits
        ),
    )


def every_item_is_scored(session: AdapterSession) -> CheckOutcome:
    """Base and tuned model each have a loss and an answer for every item."""
    rows = session.comparison.compare_items()
    broken = [row for row in rows if row.failed]
    if broken:
        # If the base fails on an item, the item is at fault; with a server, the server may be.
        is_adapters_fault = not session.comparison.is_served and any(
            row.tuned_error and not row.base_error for row in broken
        )
        return (failed if is_adapters_fault else errored)(
            f"{len(broken)} of {len(rows)} items were not scored; first: {_error_of(broken[0])}",
            "look at these items in the report: fix the items on which the base fails, too; if "
            "only the tuned model has no finite loss, fix its weights",
            {"items": [row.id for row in broken[:MOST_SHOWN]]},
        )
    copies = session.job.copies
    left_out = f"; {copies} duplicates of another item were left out" if copies else ""
    skipped = len(session.comparison.list_skipped())
    early = (
        f"; {skipped} were skipped by early stopping, because the outcome on all items is certain "
        "(a record for --phi3-baseline needs them: --phi3-early-stop off)"
        if skipped
        else ""
    )
    return passed(
        f"{len(rows)} items were scored by the base and the tuned model{early}{left_out}",
        {"scored": len(rows), "skipped_early": skipped},
    )


def no_regression_alarm(session: AdapterSession) -> CheckOutcome:
    """No comparison is significantly worse than the base; otherwise only ``strict`` fails."""
    rows = session.comparison.compare_items()
    if fault := _require_scored(rows):
        return fault
    tests = regression_tests(rows, session.comparison.config)
    raised = sorted((test for test in tests if test.raised), key=lambda test: test.p_value)
    measured = {"alarms": [to_plain(test) for test in tests]}
    level = "(Holm, 5% over all comparisons)"
    if not raised:
        message = f"none of {len(tests)} comparisons is significantly worse than the base {level}"
        return passed(message, measured)
    message = (
        f"{len(raised)} of {len(tests)} comparisons are significantly worse than the base {level}: "
        f"{_list_tests(raised)}"
    )
    if session.settings.profile == "strict":
        return failed(
            message,
            "fix the training data or the learning rate; or use the profile default, in which "
            "only the limits decide",
            measured,
        )
    return passed(f"warning: {message}; the limits decide how much is allowed", measured)


def _list_tests(raised: Sequence[RegressionTest]) -> str:
    shown = [
        f"{test.metric} on {test.group} {test.difference:+.4g} (p {test.p_value:.2g})"
        for test in raised[:MOST_SHOWN]
    ]
    return ", ".join(shown) + (" and more" if len(raised) > MOST_SHOWN else "")


def _error_of(row: ItemRow) -> str:
    return f"{row.id}: {error_text(row)}"


def _parameter(limit: Limit, limits: Sequence[Limit]) -> str:
    """Return the group, the rule if a metric has several, and what it is compared with."""
    kind = (limit.group, limit.metric, limit.against)
    alike = [other for other in limits if (other.group, other.metric, other.against) == kind]
    parts = [limit.group, limit.rule if len(alike) > 1 else "", limit.against]
    return ",".join(part for part in parts if part and part != BASE)


def _require_scored(rows: Sequence[ItemRow]) -> CheckOutcome | None:
    if broken := [row for row in rows if row.failed]:
        return not_run(
            f"{len(broken)} items were not scored; first: {_error_of(broken[0])}",
            "see the check every_item_is_scored",
        )
    return None


def _limit_check(limit: Limit) -> CheckFunction:
    def run(session: AdapterSession) -> CheckOutcome:
        rows = session.comparison.compare_items()
        if fault := _require_scored([row for row in rows if row.group == limit.group]):
            return fault
        if limit.against == BASELINE and not session.job.baseline:
            return not_run(
                f"{limit.metric} on {limit.group} cannot be compared with the last accepted "
                "adapter: no baseline is given",
                "pass its record with --phi3-baseline RECORD, or remove the limit",
            )
        metric = _find_metric(session.comparison.compute_metrics(), limit)
        if metric is None:
            return _not_measured(session.comparison.compute_metrics(), limit)
        return _conclude(session, limit, metric)

    return run


def _conclude(session: AdapterSession, limit: Limit, metric: Metric) -> CheckOutcome:
    shift = ""
    if limit.against == BASELINE:
        info = _info_of(session, limit)
        moved = base_moved(
            session.comparison.compare_items(), session.job.baseline, limit.group, info
        )
        shift = _describe_shift(limit, moved)
        if shift and abs(moved) > LARGEST_BASE_SHIFT * limit.value:
            return not_run(
                f"{shift}, although the base is the same, so the two runs did not measure "
                "under the same conditions",
                "gate the accepted adapter again on this machine, with these versions and metrics "
                "and with --phi3-early-stop off, and pass that record",
                {"base_moved": moved},
            )
    message = (
        f"{limit.metric} on {limit.group}: {_figures(limit, metric)} over {metric.n} items; "
        f"limit: {limit.describe()}" + (f" ({shift})" if shift else "")
    )
    measured = {"metric": to_plain(metric)}
    if metric.outcome is Outcome.PASSED:
        return passed(message, measured)
    if metric.outcome is Outcome.INCONCLUSIVE:
        return _undecided(session, limit, message, metric)
    unseen = session.adapter.unseen_items
    return failed(
        message,
        (f"{unseen}: see the check static::basemodel first; then " if unseen else "")
        + "look in the report at what got worse; fix the training data or the learning rate, or, "
        "if the result is acceptable, set another limit with --phi3-thresholds",
        measured,
    )


def _undecided(session: AdapterSession, limit: Limit, message: str, metric: Metric) -> CheckOutcome:
    """Return how many items would decide a limit, or, if none would, a limit that can be."""
    info = _info_of(session, limit)
    other = attainable_limit(limit, info)
    needed = 0 if other else session.comparison.estimate_items_needed(limit)
    why = "too few items to decide"
    fix = f"use about {needed} items in the group {limit.group}, which would decide it"
    if other:
        why = "no number of items can show this, because no bound reaches the end of the range"
        fix = (
            f"use {other.rule} = {other.value:g}, which about {ITEMS} items in the group "
            f"{limit.group} can show, if none falls short"
        )
    elif needed == MANY_ITEMS:
        needed, why = 0, "the result is too close to the limit for any suite to decide"
        fix = "set another limit, such as one with a wider margin"
    elif not needed:
        fix = "add items, or set a wider margin"
    measured = {"metric": to_plain(metric), "items_needed": needed}
    return inconclusive(f"{why}: {message}", fix, measured)


def _figures(limit: Limit, metric: Metric) -> str:
    """Return both means and the difference, with the interval next to what the limit bounds."""
    before = f"{limit.against} {metric.base:.4g}, tuned {metric.tuned:.4g}"
    if limit.rule in COMPARING:
        bounds = f"[{metric.low:+.4g}, {metric.high:+.4g}]"
        return f"{before}, difference {metric.difference:+.4g} {bounds}"
    return f"{before} [{metric.low:.4g}, {metric.high:.4g}]"


def _describe_shift(limit: Limit, moved: float) -> str:
    """Return the base's change since the baseline in words; empty if only rounding differs."""
    if abs(moved) <= SHIFT_BY_ROUNDING:
        return ""
    return (
        f"{limit.metric} of the base on {limit.group} changed by {moved:+.3g} since the last "
        "accepted adapter was gated"
    )


def _info_of(session: AdapterSession, limit: Limit) -> MetricInfo:
    return next(info for info in session.comparison.config.metrics if info.name == limit.metric)


def _find_metric(metrics: Sequence[Metric], limit: Limit) -> Metric | None:
    """Return the metric with this limit; None if it was not measured."""
    return next((metric for metric in metrics if metric.limit == limit.entry()), None)


def _not_measured(metrics: Sequence[Metric], limit: Limit) -> CheckOutcome:
    if all(metric.group != limit.group for metric in metrics):
        return not_run(
            f"{limit.metric} was not measured on {limit.group}: the suite has no items in it",
            f"add items of the group {limit.group} to the suite, or remove the limit",
        )
    if limit.against == BASELINE:
        return not_run(
            f"{limit.metric} was not measured on every item of {limit.group} for the last accepted "
            "adapter",
            "pass the record of an adapter that was gated with this version, or remove the limit",
        )
    return not_run(
        f"{limit.metric} was not measured on every item of {limit.group}",
        "add what it needs to the items (checks or choices), or remove the limit",
    )
